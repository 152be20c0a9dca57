package supervisor

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	defaultStopTimeout = 10 * time.Second
	// A process that dies is started again after minBackoff; one that dies within stableAfter waits
	// twice as long each time, up to maxBackoff.
	minBackoff  = 500 * time.Millisecond
	maxBackoff  = 5 * time.Second
	stableAfter = 10 * time.Second
)

// unit is a service and its process.
type unit struct {
	reaper *reaper

	mu       sync.Mutex
	service  Service
	pid      int
	starts   int
	stopped  bool
	lastExit string
	halt     chan struct{} // closed to stop run
	done     chan struct{} // closed when run has returned
}

func (u *unit) start(svc *Service) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.stopped {
		return nil
	}
	if svc != nil {
		u.service = *svc
	}
	u.stopped = false
	u.halt, u.done = make(chan struct{}), make(chan struct{})
	go u.run(u.service, u.halt, u.done)
	return nil
}

// run starts the process again and again until halt is closed.
func (u *unit) run(svc Service, halt, done chan struct{}) {
	defer close(done)
	wait := minBackoff
	for {
		began := time.Now()
		exited, err := u.spawn(&svc)
		if err == nil {
			select {
			case status := <-exited:
				u.ended(describe(status))
			case <-halt:
				u.terminate(&svc, exited)
				return
			}
		} else {
			u.ended(err.Error())
		}
		if time.Since(began) > stableAfter {
			wait = minBackoff
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, maxBackoff)
		case <-halt:
			return
		}
	}
}

func (u *unit) spawn(svc *Service) (<-chan syscall.WaitStatus, error) {
	log, err := os.OpenFile(svc.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	pid, exited, err := u.reaper.spawn(svc.Argv, svc.Env, svc.Dir, log)
	if err != nil {
		_, _ = fmt.Fprintf(log, "supervisor: cannot start %s: %v\n", svc.Argv[0], err)
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pid = pid
	u.starts++
	return exited, nil
}

// terminate ends the process: SIGTERM first, SIGKILL after the stop timeout. What it has started lives on,
// as after a crash: the pods of a device are to.
func (u *unit) terminate(svc *Service, exited <-chan syscall.WaitStatus) {
	timeout := svc.StopTimeout
	if timeout <= 0 {
		timeout = defaultStopTimeout
	}
	_ = u.signal(syscall.SIGTERM)
	select {
	case status := <-exited:
		u.ended(describe(status))
		return
	case <-time.After(timeout):
	}
	_ = u.signal(syscall.SIGKILL)
	u.ended(fmt.Sprintf("killed: it did not end within %s of SIGTERM; %s", timeout, describe(<-exited)))
}

func (u *unit) ended(how string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pid = 0
	u.lastExit = how
}

// stop ends the process and keeps it from being started again. It returns when it has ended.
func (u *unit) stop() {
	u.mu.Lock()
	if u.stopped {
		u.mu.Unlock()
		return
	}
	u.stopped = true
	close(u.halt)
	done := u.done
	u.mu.Unlock()
	<-done
}

func (u *unit) signal(sig syscall.Signal) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pid == 0 {
		return errors.New("the process is not running")
	}
	return syscall.Kill(u.pid, sig)
}

func (u *unit) status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return Status{
		Name: u.service.Name, PID: u.pid, Restarts: max(0, u.starts-1), Stopped: u.stopped,
		LastExit: u.lastExit, Log: u.service.Log,
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return fmt.Sprintf("killed by signal %q", status.Signal())
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}

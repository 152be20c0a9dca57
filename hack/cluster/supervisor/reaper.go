package supervisor

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
)

// reaper starts processes and collects every child of this process: its own, and orphans that the
// kernel hands to it.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
	jobs    chan func()
	chld    chan os.Signal
	quit    chan struct{}
	wg      sync.WaitGroup
}

func newReaper() *reaper {
	r := &reaper{
		waiting: map[int]chan syscall.WaitStatus{},
		jobs:    make(chan func()),
		chld:    make(chan os.Signal, 1),
		quit:    make(chan struct{}),
	}
	signal.Notify(r.chld, syscall.SIGCHLD)
	r.wg.Go(r.startLoop)
	r.wg.Go(r.reapLoop)
	return r
}

// startLoop starts all children from one thread that lives as long as the supervisor: the parent
// death signal of a child is bound to the thread that started it.
func (r *reaper) startLoop() {
	runtime.LockOSThread()
	for {
		select {
		case job := <-r.jobs:
			job()
		case <-r.quit:
			return
		}
	}
}

// spawn starts a process in a session of its own, with /dev/null as standard input. Its wait status
// is sent on the returned channel when it ends.
func (r *reaper) spawn(argv, env []string, dir string, log *os.File) (int, <-chan syscall.WaitStatus, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = null.Close() }()
	exited := make(chan syscall.WaitStatus, 1)
	result := make(chan error, 1)
	var pid int
	r.jobs <- func() {
		r.mu.Lock() // the child is known before it can be reaped
		defer r.mu.Unlock()
		var err error
		pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
			Dir:   dir,
			Env:   env,
			Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
		})
		if err == nil {
			r.waiting[pid] = exited
		}
		result <- err
	}
	if err := <-result; err != nil {
		return 0, nil, err
	}
	return pid, exited, nil
}

func (r *reaper) reapLoop() {
	for {
		select {
		case <-r.chld:
			r.reap()
		case <-r.quit:
			return
		}
	}
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if exited := r.waiting[pid]; exited != nil {
			exited <- status
			delete(r.waiting, pid)
		}
	}
}

func (r *reaper) stop() {
	signal.Stop(r.chld)
	close(r.quit)
	r.wg.Wait()
}

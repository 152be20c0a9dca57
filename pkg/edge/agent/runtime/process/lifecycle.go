package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

const (
	// startPatience is how long a shim may take until it has started its process.
	startPatience = 60 * time.Second
	// loadPatience is how long a new agent waits for the containers that are still being started.
	loadPatience = 5 * time.Second
	// killPatience is how long a killed container may take to be gone.
	killPatience = 15 * time.Second
	// orphanPeriod is how often a process without a shim is looked at.
	orphanPeriod = 500 * time.Millisecond
)

// StartContainer is a CRI call. A command that cannot be started leaves the container in the state
// exited, with the reason StartError.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	c, err := r.container(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if state, _, _ := c.state(); state != runtimeapi.ContainerState_CONTAINER_CREATED {
		return status.Errorf(codes.FailedPrecondition, "container %s is in the state %s, not created", id, strings.ToLower(strings.TrimPrefix(state.String(), "CONTAINER_")))
	}
	c.mu.Lock()
	spec := c.spec
	c.spec = nil
	c.mu.Unlock()
	if spec == nil {
		return status.Errorf(codes.FailedPrecondition, "container %s was removed", id)
	}
	// Not cut short by the caller: what is being started when the agent ends runs on, as all that runs does.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), startPatience, fmt.Errorf("it took longer than %s", startPatience))
	started, pid, err := shim.Start(ctx, c.dir, spec)
	cancel()
	r.mu.Lock()
	c.letGo()
	r.mu.Unlock()
	if err != nil {
		exit := &shim.Exit{Code: exitStartError, At: time.Now(), Reason: reasonStartError, Message: err.Error()}
		err = status.Errorf(codes.Unknown, "cannot start the container: %v", err)
		return errors.Join(err, r.recordExit(c, exit))
	}
	c.mu.Lock()
	c.started = started
	c.mu.Unlock()
	r.watchShim(c, pid)
	return nil
}

func (r *Runtime) recordExit(c *container, exit *shim.Exit) error {
	err := shim.WriteExit(c.dir, exit)
	c.setExit(exit)
	return err
}

func (c *container) setExit(exit *shim.Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exit == nil {
		c.exit = exit
		close(c.ended)
	}
}

// watch waits for the end of a running container that an earlier agent started.
func (r *Runtime) watch(c *container) { r.watchShim(c, 0) }

// watchShim waits for the end of a running container. The goroutine ends with it or with Close.
func (r *Runtime) watchShim(c *container, shimPID int) {
	r.monitors.Go(func() {
		if _, started, _ := c.state(); started.PID == 0 && !r.awaitStart(c) {
			return
		}
		said, ok := r.waitShim(c)
		if !ok {
			return
		}
		if shimPID != 0 {
			shim.Reap(shimPID)
		}
		exit, err := finalExit(c.dir)
		switch {
		case err == nil:
			c.setExit(exit)
		case said != nil:
			r.end(c, said)
		default:
			r.watchOrphan(c)
		}
	})
}

// waitShim waits for what a shim says of the end, which is nothing if it is gone. It may be that it cannot be asked
// for a while. False: the runtime is closed.
func (r *Runtime) waitShim(c *container) (said *shim.Exit, ok bool) {
	for {
		said, err := shim.Wait(r.ctx, c.dir)
		if err == nil || !shim.Alive(c.dir) {
			return said, true
		}
		select {
		case <-time.After(orphanPeriod):
		case <-r.ctx.Done():
			return nil, false
		}
	}
}

// finalExit reads what a shim recorded when it is gone: until then it holds mount points, and may not have written
// its record yet.
func finalExit(dir string) (*shim.Exit, error) {
	for deadline := time.Now().Add(killPatience); shim.Alive(dir) && time.Now().Before(deadline); {
		time.Sleep(2 * time.Millisecond)
	}
	return shim.ReadExit(dir)
}

// end ends a container in the place of its shim, unless its end is known by now: then its files may be gone.
func (r *Runtime) end(c *container, exit *shim.Exit) {
	select {
	case <-c.ended:
		return
	default:
	}
	if err := r.recordExit(c, exit); err != nil {
		r.logger.Error(err, "Cannot record the end of a container", "id", c.id)
	}
}

// awaitStart waits until a shim that an earlier agent started says which process it has started. False: it
// started none, or the runtime is closed.
func (r *Runtime) awaitStart(c *container) bool {
	r.logger.Info("A container is still being started", "container", c.config.GetMetadata().GetName(), "id", c.id)
	ticker := time.NewTicker(orphanPeriod)
	defer ticker.Stop()
	for {
		alive := shim.Alive(c.dir)
		if started, err := shim.ReadStarted(c.dir); err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.started = started
			return true
		}
		if !alive {
			r.end(c, &shim.Exit{Code: exitStartError, At: time.Now(), Reason: reasonStartError, Message: "the agent ended while the container was being started, and nobody was told why it could not be"})
			return false
		}
		select {
		case <-ticker.C:
		case <-r.ctx.Done():
			return false
		}
	}
}

// watchOrphan waits for a process whose shim cannot be asked. If it was killed, it cannot be learned how the
// process ends.
func (r *Runtime) watchOrphan(c *container) {
	_, started, _ := c.state()
	r.logger.Info("The shim of a container is gone; its process is watched without", "container", c.config.GetMetadata().GetName(), "id", c.id, "pid", started.PID)
	ticker := time.NewTicker(orphanPeriod)
	defer ticker.Stop()
	for started.Alive() {
		select {
		case <-ticker.C:
		case <-r.ctx.Done():
			return
		}
	}
	if exit, err := finalExit(c.dir); err == nil {
		c.setExit(exit)
		return
	}
	r.end(c, &shim.Exit{Code: exitUnknown, At: time.Now(), Reason: reasonUnknown, Message: "the process ended while nothing was watching it (a reboot, or its shim was killed): its exit code is not known"})
}

// StopContainer is a CRI call. The timeout is in seconds.
func (r *Runtime) StopContainer(ctx context.Context, id string, timeout int64) error {
	c, err := r.container(id)
	if err != nil {
		return nil //nolint:nilerr // not known: stopped and removed
	}
	return r.stop(ctx, c, time.Duration(timeout)*time.Second)
}

// stop ends a container: with its stop signal to the process group, after the grace period with
// SIGKILL. A second stop with a shorter period is not held up by the first.
func (r *Runtime) stop(ctx context.Context, c *container, grace time.Duration) error {
	state, _, _ := c.state()
	if state == runtimeapi.ContainerState_CONTAINER_CREATED {
		// A start that is under way is waited for, so that nothing runs after this returns.
		c.op.Lock()
		state, _, _ = c.state()
		if state == runtimeapi.ContainerState_CONTAINER_CREATED {
			c.mu.Lock()
			c.spec = nil
			c.mu.Unlock()
		}
		c.op.Unlock()
	}
	if state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil
	}
	if grace > 0 {
		if err := r.signal(ctx, c, stopSignal(c.config)); err != nil {
			return err
		}
		if done, err := waitEnded(ctx, c, grace); done || err != nil {
			return err
		}
	}
	if err := r.signal(ctx, c, syscall.SIGKILL); err != nil {
		return err
	}
	done, err := waitEnded(ctx, c, killPatience)
	if err != nil {
		return err
	}
	if !done {
		return status.Errorf(codes.DeadlineExceeded, "container %s is still there %s after SIGKILL", c.id, killPatience)
	}
	return nil
}

func waitEnded(ctx context.Context, c *container, patience time.Duration) (bool, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.ended:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, status.FromContextError(ctx.Err()).Err()
	}
}

// signal goes through the shim, which alone can be sure of the process; straight, if that does not work.
func (r *Runtime) signal(ctx context.Context, c *container, sig syscall.Signal) error {
	shimCtx, cancel := context.WithTimeout(ctx, r.answerPatience)
	defer cancel()
	err := shim.Signal(shimCtx, c.dir, sig)
	if err != nil && ctx.Err() == nil {
		_, started, _ := c.state()
		err = started.Kill(sig)
		if errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
	}
	if err != nil {
		return status.Errorf(codes.Internal, "cannot signal container %s: %v", c.id, err)
	}
	return nil
}

// stopSignal is the signal that asks a container to end.
func stopSignal(config *runtimeapi.ContainerConfig) syscall.Signal {
	if s := config.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		if sig := unix.SignalNum(strings.TrimPrefix(s.String(), "SIGNAL_")); sig != 0 {
			return sig
		}
	}
	return syscall.SIGTERM
}

// ReopenContainerLog is a CRI call.
func (r *Runtime) ReopenContainerLog(ctx context.Context, id string) error {
	c, err := r.container(id)
	if err != nil {
		return err
	}
	if state, _, _ := c.state(); state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return status.Errorf(codes.FailedPrecondition, "container %s does not run", id)
	}
	ctx, cancel := context.WithTimeout(ctx, r.answerPatience)
	defer cancel()
	if err := shim.ReopenLog(ctx, c.dir); err != nil {
		return status.Errorf(codes.Internal, "cannot reopen the log of container %s: %v", id, err)
	}
	return nil
}

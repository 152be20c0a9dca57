package host

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// wait waits for a command that leads a process group. When ctx ends first the group is hung up, then
// killed.
func wait(ctx context.Context, cmd *exec.Cmd) error {
	pid := cmd.Process.Pid
	ended, hungUp := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(hungUp)
		hangUp(pid, ended)
	})
	awaitExit(pid)
	close(ended)
	if !stop() {
		<-hungUp // the group's id must not go before
	}
	return cmd.Wait()
}

// hangUp ends a process group, whose leader has not been reaped. It returns when nothing is left to do.
func hangUp(pid int, ended <-chan struct{}) {
	_ = unix.Kill(-pid, unix.SIGHUP)
	_ = unix.Kill(-pid, unix.SIGCONT)
	timer := time.NewTimer(hangupPatience)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
}

// awaitExit waits until a child has ended, without reaping it: until then its id, and so that of its group,
// belongs to nobody else.
func awaitExit(pid int) {
	if pollExit(pid) != nil { // Linux before 5.3
		_, _ = exited(pid, 0)
	}
}

// pollExit waits in the runtime's poller. A blocking call would take a thread for each command.
func pollExit(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what the poller takes
		return errors.Join(err, unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	defer func() { _ = file.Close() }()
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var waitErr error
	if err := conn.Read(func(uintptr) (over bool) {
		over, waitErr = exited(pid, unix.WNOHANG)
		return over || waitErr != nil
	}); err != nil {
		return err
	}
	return waitErr
}

// exited asks, or waits without the option WNOHANG.
func exited(pid, options int) (bool, error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|options, nil)
		if !errors.Is(err, unix.EINTR) {
			return info.Signo != 0, err
		}
	}
}

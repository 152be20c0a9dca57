package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Isolation makes a supervisor stand for a machine of its own: it is the init process of new pid,
// mount, network and UTS namespaces, with a private /proc and /run. All of it vanishes with the
// supervisor. It needs root.
type Isolation struct {
	// Hostname of the machine.
	Hostname string `json:"hostname"`
	// Binds are files and directories that hide others in the machine: target to source.
	Binds map[string]string `json:"binds,omitempty"`
}

const cloneFlags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// Launch starts argv, which must come to call Run (and Enter before, if isolated), as a process that
// outlives the caller. Its output goes to the file log. It returns when the supervisor answers at
// its socket.
func Launch(ctx context.Context, argv []string, env []string, socket, log string, isolated bool) (Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return Process{}, err
	}
	defer func() { _ = file.Close() }()
	cmd := exec.Command(argv[0], argv[1:]...) // outlives ctx on purpose
	cmd.Env = env
	cmd.Dir = filepath.Dir(log)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if isolated {
		cmd.SysProcAttr.Cloneflags = cloneFlags
	}
	if err := cmd.Start(); err != nil {
		return Process{}, fmt.Errorf("start the supervisor %s: %w", argv[0], err)
	}
	p, err := FindProcess(cmd.Process.Pid)
	if err != nil {
		return Process{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		cancel(fmt.Errorf("it ended: %w; see %s", cmd.Wait(), log))
	}()
	if err := NewClient(socket).WaitReady(ctx); err != nil {
		_ = p.Signal(syscall.SIGKILL)
		return Process{}, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	return p, nil
}

// Enter turns the namespaces that Launch made into a machine: nothing it mounts is seen outside.
func (i *Isolation) Enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	// Mounts of this machine propagate among its own mount namespaces, as on any systemd machine:
	// containers with volumes need it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts within the machine: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for target, source := range i.Binds {
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s over %s: %w", source, target, err)
		}
	}
	if err := unix.Sethostname([]byte(i.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return nil
}

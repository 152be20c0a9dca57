package host

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/agent/drain"
	"arhat.dev/aranya/pkg/edge/agent/tty"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// hangupPatience is how long a command may take to end after its session was cut off.
const hangupPatience = 2 * time.Second

func (h *Host) exec(ctx context.Context, r *edgeapi.Exec, s *stream.Stream) error {
	if len(r.GetCommand()) == 0 || r.Command[0] == "" {
		return failf(metav1.StatusReasonBadRequest, "no command was given")
	}
	if r.GetContainer() != nil {
		return h.execContainer(ctx, r, s)
	}
	if err := h.demand(rightExec); err != nil {
		return err
	}
	cmd := exec.Command(r.Command[0], r.Command[1:]...)
	if cmd.Err != nil {
		return failf(metav1.StatusReasonBadRequest, "the device cannot run %q: %v", r.Command[0], cmd.Err)
	}
	return h.runCommand(ctx, cmd, streams{r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTty()}, s)
}

// attach without a container runs a login shell: a host has no main process to attach to.
func (h *Host) attach(ctx context.Context, r *edgeapi.Attach, s *stream.Stream) error {
	if r.GetContainer() != nil {
		return h.attachContainer(ctx, r, s)
	}
	if err := h.demand(rightAttach); err != nil {
		return err
	}
	cmd := &exec.Cmd{Args: h.config.Shell}
	if len(cmd.Args) > 0 {
		cmd.Path = cmd.Args[0]
	} else {
		cmd.Path = currentAccount().shell
		cmd.Args = []string{"-" + filepath.Base(cmd.Path)} // which makes it a login shell
	}
	return h.runCommand(ctx, cmd, streams{r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTty()}, s)
}

// streams are those that were asked for.
type streams struct{ stdin, stdout, stderr, tty bool }

// runCommand runs a command on the host. When ctx ends first its process group is hung up, then
// killed.
func (h *Host) runCommand(ctx context.Context, cmd *exec.Cmd, want streams, s *stream.Stream) error {
	a := currentAccount()
	cmd.Env = a.environment(want.tty)
	cmd.Dir = a.directory()
	if !want.stdin {
		closeStdin(s)
	}
	var err error
	if want.tty {
		err = h.runTerminal(ctx, cmd, want, s)
	} else {
		err = h.runPipes(ctx, cmd, want, s)
	}
	return commandError(ctx, err)
}

func commandError(ctx context.Context, err error) error {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit):
		code := exit.ExitCode()
		if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			code = 128 + int(st.Signal())
		}
		return utilexec.CodeExitError{Err: err, Code: code}
	}
	return err
}

func (h *Host) runPipes(ctx context.Context, cmd *exec.Cmd, want streams, s *stream.Stream) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &output{patience: h.patience}
	defer out.close()
	var err error
	if want.stdout {
		err = out.pipe(&cmd.Stdout, s.Writer(edgeapi.Channel_STDOUT))
	}
	if want.stderr && err == nil {
		err = out.pipe(&cmd.Stderr, s.Writer(edgeapi.Channel_STDERR))
	}
	if err != nil {
		return err
	}
	var stdin io.WriteCloser
	if want.stdin {
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := start(cmd, s); err != nil {
		return err
	}
	out.carry()
	if stdin != nil {
		// Ends with the stream, or with the command: Wait closes the pipe.
		s.Forward(edgeapi.Channel_STDIN, stdin, func(error) { _ = stdin.Close() })
	}
	err = wait(ctx, cmd)
	out.drain()
	return err
}

func (h *Host) runTerminal(ctx context.Context, cmd *exec.Cmd, want streams, s *stream.Stream) error {
	master, fd, err := tty.Open()
	if err != nil {
		return err
	}
	slave := os.NewFile(uintptr(fd), "tty")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = start(cmd, s)
	_ = slave.Close()
	if err != nil {
		return errors.Join(err, master.Close())
	}
	output := drain.NewReader(master, h.patience)
	var copies sync.WaitGroup
	stop := make(chan struct{})
	copies.Go(func() {
		out := io.Discard
		if want.stdout {
			out = s.Writer(edgeapi.Channel_STDOUT)
		}
		_, _ = io.Copy(out, output) // until EIO: the last process has let go of the terminal
	})
	copies.Go(func() { followSize(s.Resizes(), master, stop) })
	if want.stdin {
		s.Forward(edgeapi.Channel_STDIN, master, func(error) {}) // at its end the terminal stays
	}
	err = wait(ctx, cmd)
	close(stop)
	output.End()
	copies.Wait()
	return errors.Join(err, master.Close())
}

// followSize applies sizes until it is stopped.
func followSize(sizes <-chan *edgeapi.TerminalSize, terminal *os.File, stop <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = tty.Resize(terminal, cells(size.GetWidth()), cells(size.GetHeight()))
		case <-stop:
			return
		}
	}
}

func cells(n uint32) uint16 { return uint16(min(n, 1<<16-1)) }

// start starts a command and says so. If the server is gone already the command is ended again. It does so in
// a goroutine of its own, whose stack goes with it.
func start(cmd *exec.Cmd, s *stream.Stream) error {
	started := make(chan error)
	go func() { started <- startHere(cmd, s) }()
	return <-started
}

func startHere(cmd *exec.Cmd, s *stream.Stream) error {
	if err := cmd.Start(); err != nil {
		return failf(metav1.StatusReasonBadRequest, "the device cannot run %q: %v", cmd.Path, err)
	}
	// The agent's own protection from a lack of memory is not for commands.
	_ = os.WriteFile("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/oom_score_adj", []byte("0"), 0)
	if err := s.Ready(); err != nil {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
		return err
	}
	return nil
}

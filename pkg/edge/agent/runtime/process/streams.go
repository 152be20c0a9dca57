package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/agent/drain"
	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
	"arhat.dev/aranya/pkg/edge/agent/tty"
)

const (
	// maxSyncOutput bounds what ExecSync keeps of each stream in bytes.
	maxSyncOutput = 1 << 20
	dialTimeout   = 10 * time.Second
)

func (r *Runtime) running(id string) (*container, error) {
	c, err := r.container(id)
	if err != nil {
		return nil, err
	}
	if state, _, _ := c.state(); state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s does not run", id)
	}
	return c, nil
}

// ExecSync is a CRI call. Output beyond 1 MiB per stream is dropped.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, remote.ErrCommandTimedOut)
		defer cancel()
	}
	stdout, stderr := &boundedBuffer{}, &boundedBuffer{}
	err := r.ExecStream(ctx, id, cmd, runtime.IO{Stdout: stdout, Stderr: stderr})
	if errors.Is(err, remote.ErrCommandTimedOut) {
		err = fmt.Errorf("%w: %q timed out after %s", remote.ErrCommandTimedOut, strings.Join(cmd, " "), timeout)
	}
	var exit utilexec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, nil, err
	}
	return stdout.Bytes(), stderr.Bytes(), err
}

// boundedBuffer keeps the beginning of what is written to it, by a copier that may go on when the command's time is
// over. It is no bytes.Buffer: io.Copy would use its ReadFrom.
type boundedBuffer struct {
	mu   sync.Mutex
	kept []byte
}

func (b *boundedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = append(b.kept, p[:min(len(p), maxSyncOutput-len(b.kept))]...)
	return len(p), nil
}

// Exec is a CRI call for a streaming server, which this runtime has no need of.
func (r *Runtime) Exec(context.Context, *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return nil, unsupported("streaming URLs; use ExecStream")
}

// Attach is a CRI call for a streaming server.
func (r *Runtime) Attach(context.Context, *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return nil, unsupported("streaming URLs; use AttachStream")
}

// ExecStream runs a command with the container's environment, directory, user and mounts. It ends
// with the command; when ctx ends first, the command is killed.
func (r *Runtime) ExecStream(ctx context.Context, id string, command []string, streams runtime.IO) error {
	c, err := r.running(id)
	if err != nil {
		return err
	}
	session, request, fds, err := r.newSession(streams)
	if err != nil {
		return status.Errorf(codes.Internal, "%v", err)
	}
	defer session.close()
	request.Args = command
	session.start(streams)
	response, err := shim.Exec(ctx, c.dir, request, fds, func() { closeFDs(fds) })
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, shim.ErrGone):
		return status.Errorf(codes.FailedPrecondition, "cannot exec in container %s: %v", id, err)
	case err != nil:
		return status.Errorf(codes.Internal, "cannot exec in container %s: %v", id, err)
	case response.Error != "":
		return status.Errorf(codes.Unknown, "cannot exec in container %s: %s", id, response.Error)
	}
	session.drain(ctx)
	if response.Code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", response.Code), Code: int(response.Code)}
	}
	return nil
}

// AttachStream connects to the main process of a container until it ends, or ctx does.
func (r *Runtime) AttachStream(ctx context.Context, id string, streams runtime.IO) error {
	c, err := r.running(id)
	if err != nil {
		return err
	}
	if streams.TTY != c.config.Tty {
		return status.Errorf(codes.InvalidArgument, "container %s was started with tty=%t, attach must say the same", id, c.config.Tty)
	}
	resize := streams.Resize
	streams.TTY = false // the terminal is the shim's: pipes carry its bytes
	if c.config.Tty {
		streams.Stderr = nil
	}
	if !c.config.Stdin {
		streams.Stdin = nil
	}
	session, request, fds, err := r.newSession(streams)
	if err != nil {
		return status.Errorf(codes.Internal, "%v", err)
	}
	defer session.close()
	attachment, err := shim.Attach(ctx, c.dir, request, fds, func() { closeFDs(fds) })
	if err != nil {
		return status.Errorf(codes.FailedPrecondition, "cannot attach to container %s: %v", id, err)
	}
	session.start(streams)
	ended := make(chan struct{})
	defer func() { <-ended }()
	defer attachment.Close()
	go func() {
		defer close(ended)
		attachment.Wait()
	}()
	for {
		select {
		case size, ok := <-resize:
			if !ok {
				resize = nil
			} else if err := attachment.Resize(size.Width, size.Height); err != nil {
				resize = nil
			}
		case <-session.outputDone(ended):
			session.drain(ctx)
			return context.Cause(ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// session carries the streams of one exec or attach between their Go values and descriptors.
type session struct {
	terminal *os.File
	stdin    *os.File
	outputs  []*os.File
	readers  []*drain.Reader // of the outputs
	copies   sync.WaitGroup
	done     chan struct{} // closed when all output was copied
	resize   <-chan runtime.TerminalSize
	stop     chan struct{}
}

// newSession makes the pipes, or the terminal, of a session. The descriptors are for the shim, and
// are the caller's to close.
func (r *Runtime) newSession(streams runtime.IO) (*session, *shim.Request, []int, error) {
	s := &session{done: make(chan struct{}), stop: make(chan struct{})}
	request := &shim.Request{TTY: streams.TTY, Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil}
	if streams.TTY {
		fd, err := s.openTerminal()
		if err != nil {
			return nil, nil, nil, err
		}
		s.resize = streams.Resize
		s.readers = append(s.readers, drain.NewReader(s.terminal, r.patience))
		request.Stdin, request.Stdout, request.Stderr = true, true, false
		return s, request, []int{fd}, nil
	}
	var fds []int
	fail := func(err error) (*session, *shim.Request, []int, error) {
		closeFDs(fds)
		s.close()
		return nil, nil, nil, err
	}
	if streams.Stdin != nil {
		fd, file, err := shim.Pipe(true)
		if err != nil {
			return fail(err)
		}
		fds, s.stdin = append(fds, fd), file
	}
	for _, w := range []io.Writer{streams.Stdout, streams.Stderr} {
		if w == nil {
			continue
		}
		fd, file, err := shim.Pipe(false)
		if err != nil {
			return fail(err)
		}
		fds, s.outputs = append(fds, fd), append(s.outputs, file)
		s.readers = append(s.readers, drain.NewReader(file, r.patience))
	}
	return s, request, fds, nil
}

func (s *session) openTerminal() (int, error) {
	master, fd, err := tty.Open()
	if err != nil {
		return -1, err
	}
	s.terminal, s.stdin, s.outputs = master, master, []*os.File{master}
	return fd, nil
}

// start begins to copy. The goroutine for input ends when its reader does or at the first write
// after close, the others with the output or close.
func (s *session) start(streams runtime.IO) {
	if s.stdin != nil && streams.Stdin != nil {
		go func() {
			_, _ = io.Copy(s.stdin, streams.Stdin)
			if s.terminal == nil {
				_ = s.stdin.Close()
			}
		}()
	}
	var writers []io.Writer
	for _, w := range []io.Writer{streams.Stdout, streams.Stderr} {
		if w != nil {
			writers = append(writers, w)
		}
	}
	if s.terminal != nil {
		writers = writers[:min(1, len(writers))]
		if len(writers) == 0 {
			writers = []io.Writer{io.Discard}
		}
		go s.followSize()
	}
	for i, w := range writers {
		s.copies.Go(func() {
			_, _ = io.Copy(w, s.readers[i])
			// The command must not block for ever on output that nobody takes.
			_ = s.outputs[i].Close()
		})
	}
	go func() {
		s.copies.Wait()
		close(s.done)
	}()
}

func (s *session) followSize() {
	for {
		select {
		case size, ok := <-s.resize:
			if !ok {
				return
			}
			_ = tty.Resize(s.terminal, size.Width, size.Height)
		case <-s.stop:
			return
		}
	}
}

// outputDone is closed when the output, or, without any, the session has ended.
func (s *session) outputDone(ended chan struct{}) <-chan struct{} {
	if len(s.outputs) == 0 {
		return ended
	}
	return s.done
}

// drain waits for the rest of the output after the command's end.
func (s *session) drain(ctx context.Context) {
	for _, reader := range s.readers {
		reader.End()
	}
	select {
	case <-s.done:
	case <-ctx.Done():
	}
}

func (s *session) close() {
	close(s.stop)
	if s.stdin != nil {
		_ = s.stdin.Close()
	}
	for _, f := range s.outputs {
		_ = f.Close()
	}
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// DialPod connects to a port on the host's loopback: all pods are in the host's network.
func (r *Runtime) DialPod(ctx context.Context, sandboxID string, port uint16) (runtime.Conn, error) {
	r.mu.Lock()
	s, ok := r.sandboxes[sandboxID]
	ready := ok && s.ready
	r.mu.Unlock()
	if !ok {
		return nil, status.Errorf(codes.NotFound, "there is no sandbox %s", sandboxID)
	}
	if !ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s is not ready", sandboxID)
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	var failed error // on the usual address
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		if failed == nil {
			failed = err
		}
	}
	return nil, status.Errorf(codes.Unavailable, "cannot connect to port %d of the pod: %v", port, failed)
}

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probeArgument makes a shim only try whether it may have a mount namespace.
const probeArgument = "probe"

// ErrGone says that a container's shim does not run any more.
var ErrGone = errors.New("the shim of the container does not run any more")

// Start starts a shim that runs a container. The directory must exist. It returns once the
// container's process runs; pid is the shim's, which is a child of this process, see Reap. With an error,
// also that ctx has ended before, nothing of the container runs.
func Start(ctx context.Context, dir string, spec *Spec) (started *Started, pid int, err error) {
	dirFile, err := os.Open(dir)
	if err != nil {
		return nil, 0, err
	}
	defer dirFile.Close()
	lock, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, 0, fmt.Errorf("the container is being run already: %w", err)
	}
	stderr, err := os.OpenFile(filepath.Join(dir, fileStderr), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer stderr.Close()
	ready, readyWrite, err := os.Pipe()
	if err != nil {
		return nil, 0, err
	}
	defer ready.Close()
	stdin, stdinWrite, err := os.Pipe()
	if err != nil {
		return nil, 0, errors.Join(err, readyWrite.Close())
	}
	cmd := command(spec.ID, spec.Mode)
	cmd.Stdin, cmd.Stderr = stdin, stderr
	cmd.ExtraFiles = []*os.File{dirFile, readyWrite, lock}
	err = cmd.Start()
	_, _ = stdin.Close(), readyWrite.Close()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("cannot start a shim: %w", err), stdinWrite.Close())
	}
	pid = cmd.Process.Pid
	_ = cmd.Process.Release()
	started, err = converse(ctx, spec, stdinWrite, ready, filepath.Join(dir, fileStderr))
	if err != nil {
		abandon(pid)
	}
	return started, pid, err
}

// command is a shim that has yet to be started. It gets nothing of this process's environment.
func command(id string, mode MountMode) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", Command, id)
	cmd.Args[0] = "arhat"
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	switch mode {
	case MountNone:
	case MountNamespace:
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
	case MountUserNamespace:
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	return cmd
}

func converse(ctx context.Context, spec *Spec, stdin, ready *os.File, log string) (*Started, error) {
	defer context.AfterFunc(ctx, func() {
		_, _ = stdin.SetWriteDeadline(time.Now()), ready.SetReadDeadline(time.Now())
	})()
	err := json.NewEncoder(stdin).Encode(spec)
	err = errors.Join(err, stdin.Close())
	reply := Ready{}
	if decodeErr := json.NewDecoder(ready).Decode(&reply); decodeErr != nil {
		if ctx.Err() != nil {
			decodeErr = context.Cause(ctx)
		}
		said, _ := os.ReadFile(log)
		return nil, fmt.Errorf("the shim did not start the container: %w; it said: %q", errors.Join(decodeErr, err), strings.TrimSpace(string(said[max(0, len(said)-1024):])))
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	return reply.Started, nil
}

// abandon ends a shim that did not say that its process runs, with all that it has started after all.
func abandon(pid int) {
	// Stopped, it starts nothing more, and goes last: what it left behind would become another's child.
	_ = unix.Kill(pid, unix.SIGSTOP)
	// Nor does it collect its children, so the end is when two looks in a row find the same dead ones only.
	dead := -1
	for deadline := time.Now().Add(killPatience); time.Now().Before(deadline); {
		children, running, err := killChildren(pid)
		if err == nil && running == 0 && children == dead {
			break
		}
		dead = -1
		if err == nil && running == 0 {
			dead = children
		}
		time.Sleep(5 * time.Millisecond)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	Reap(pid)
}

// Reap collects a shim that was started by this process and has ended, or is about to.
func Reap(pid int) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		if got == pid || (err != nil && !errors.Is(err, syscall.EINTR)) {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// CanMount tells whether the system lets the agent give containers mounts in a way.
func CanMount(mode MountMode) error {
	cmd := command(probeArgument, mode)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}

// Alive tells whether a container's shim runs. It holds a lock on a file for as long as it lives, which excludes even
// the shared one that is tried here. Where that cannot be seen, it is taken to run.
func Alive(dir string) bool {
	lock, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR, 0)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer lock.Close()
	return unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// dial connects to a shim. The connection is closed when ctx ends; stop undoes that.
func dial(ctx context.Context, dir string) (conn *net.UnixConn, stop func() bool, err error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, dialError(err)
	}
	defer unix.Close(fd)
	conn, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: procFD(fd) + "/" + fileSocket, Net: "unixpacket"})
	if err != nil {
		return nil, nil, dialError(err)
	}
	return conn, context.AfterFunc(ctx, func() { _ = conn.Close() }), nil
}

// dialError tells a shim that is gone from a connection that fails on this side, for want of descriptors say.
func dialError(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return fmt.Errorf("cannot connect to the shim of the container: %w", err)
}

// call sends a request, with descriptors that stay the caller's, and waits for the answer, or until ctx ends. It calls
// sent once it does not need the descriptors any more.
func call(ctx context.Context, dir string, request *Request, fds []int, sent func()) (Response, error) {
	response := Response{}
	conn, stop, err := dial(ctx, dir)
	if err != nil {
		sent()
		return response, err
	}
	defer conn.Close()
	defer stop()
	err = send(conn, request, fds...)
	sent()
	if err != nil {
		return response, err
	}
	files, err := receive(conn, &response)
	closeAll(files)
	if err != nil && ctx.Err() != nil {
		return response, fmt.Errorf("no answer from the shim of the container: %w", context.Cause(ctx))
	}
	if err != nil {
		return response, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return response, nil
}

// ask is a call without descriptors.
func ask(ctx context.Context, dir string, request *Request) (Response, error) {
	return call(ctx, dir, request, nil, func() {})
}

// Wait returns when the container has ended or its shim is gone, and with an error if that cannot be seen or ctx
// ends first. The exit is the shim's word, which stands in for a record that it could not write; nil if it is gone.
func Wait(ctx context.Context, dir string) (*Exit, error) {
	response, err := ask(ctx, dir, &Request{Op: opWait})
	if errors.Is(err, ErrGone) {
		return nil, nil
	}
	if err := asError(response, err); err != nil {
		return nil, err
	}
	if response.At.IsZero() {
		response.At = time.Now()
	}
	return &Exit{Code: response.Code, At: response.At}, nil
}

// Signal signals the container's process group.
func Signal(ctx context.Context, dir string, sig syscall.Signal) error {
	return asError(ask(ctx, dir, &Request{Op: opSignal, Signal: int(sig)}))
}

// ReopenLog has the shim begin a new log file.
func ReopenLog(ctx context.Context, dir string) error {
	return asError(ask(ctx, dir, &Request{Op: opReopen}))
}

func asError(r Response, err error) error {
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return err
}

// Exec runs a command in the container and waits for its end; when ctx ends first it is killed. The
// descriptors are those that the request announces and stay the caller's; sent is called when the
// command has its own copies.
func Exec(ctx context.Context, dir string, request *Request, fds []int, sent func()) (Response, error) {
	request.Op = opExec
	return call(ctx, dir, request, fds, sent)
}

// Attachment is a client's connection to the main process of a container.
type Attachment struct {
	conn *net.UnixConn
	stop func() bool
}

// Attach connects descriptors to the container's main process, until Close or until ctx or the
// container ends.
func Attach(ctx context.Context, dir string, request *Request, fds []int, sent func()) (*Attachment, error) {
	conn, stop, err := dial(ctx, dir)
	if err != nil {
		sent()
		return nil, err
	}
	request.Op = opAttach
	err = send(conn, request, fds...)
	sent()
	response := Response{}
	if err == nil {
		var files []int
		files, err = receive(conn, &response)
		closeAll(files)
	}
	if err == nil && response.Error != "" {
		err = errors.New(response.Error)
	}
	if err != nil {
		stop()
		return nil, errors.Join(err, conn.Close())
	}
	return &Attachment{conn: conn, stop: stop}, nil
}

// Resize sets the size of the container's terminal.
func (a *Attachment) Resize(width, height uint16) error {
	return send(a.conn, &Request{Op: opResize, Width: width, Height: height})
}

// Wait returns when the attachment has ended.
func (a *Attachment) Wait() {
	_, _ = a.conn.Read(make([]byte, 1))
}

// Close ends the attachment.
func (a *Attachment) Close() error {
	a.stop()
	return a.conn.Close()
}

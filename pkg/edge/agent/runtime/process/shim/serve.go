package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds on the connections of one shim: in all, and of clients attached to the main process.
const (
	maxConnections = 256
	maxAttached    = 64
)

// acceptPause is how long a shim waits after a connection that it could not accept.
const acceptPause = 100 * time.Millisecond

func (s *shim) serve(listener *net.UnixListener) {
	slots := make(chan struct{}, maxConnections)
	for failed := false; ; {
		conn, err := listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptor or memory is left: who waits now is served when there is again
			if !failed {
				fmt.Fprintln(os.Stderr, err)
			}
			failed = true
			time.Sleep(acceptPause)
			continue
		}
		failed = false
		slots <- struct{}{}
		s.connections.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			s.handle(conn)
		})
	}
}

func (s *shim) handle(conn *net.UnixConn) {
	if err := checkPeer(conn); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	request := &Request{}
	files, err := receive(conn, request)
	defer func() {
		for _, fd := range files {
			_ = unix.Close(fd)
		}
	}()
	if err != nil {
		s.reply(conn, Response{Error: err.Error()})
		return
	}
	switch request.Op {
	case opWait:
		<-s.ended
		if s.reply(conn, Response{Code: s.exit.Code, At: s.exit.At}) {
			select {
			case s.told <- struct{}{}:
			default:
			}
		}
	case opSignal:
		s.reply(conn, failure(s.signal(syscall.Signal(request.Signal))))
	case opReopen:
		var err error
		if s.stdio.log != nil {
			err = s.stdio.log.reopen()
		}
		s.reply(conn, failure(err))
	case opExec:
		owned := files
		files = nil
		s.exec(conn, request, owned)
	case opAttach:
		owned := files
		files = nil
		s.attach(conn, request, owned)
	default:
		s.reply(conn, Response{Error: fmt.Sprintf("the shim of this container does not know the operation %q: it was started by an older version", request.Op)})
	}
}

// checkPeer refuses everybody but the shim's own user and root; the socket's mode does so too.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("refused a connection of user %d", cred.Uid)
	}
	return nil
}

// signal reaches the whole process group. Until the main process is reaped, its id is its own; after
// that, ended or about to be, there is nothing to signal.
func (s *shim) signal(sig syscall.Signal) error {
	s.processes.mu.Lock()
	defer s.processes.mu.Unlock()
	if _, running := s.processes.waiters[s.main]; !running {
		return nil
	}
	return unix.Kill(-s.main, sig)
}

// exec runs one more command. It ends with the command, or when the client goes away.
func (s *shim) exec(conn *net.UnixConn, request *Request, fds []int) {
	// Close the copies at the end of start, or the client would never see the end of the output.
	streams, err := execFiles(request, fds)
	defer closeAll(fds)
	defer streams.close()
	if err == nil {
		err = s.spec.handOver(fds...)
	}
	if err != nil {
		s.reply(conn, failure(err))
		return
	}
	if len(request.Args) == 0 {
		s.reply(conn, Response{Error: "no command given"})
		return
	}
	command, err := s.processes.start(request.Args, streams.files, request.TTY)
	streams.close()
	closeAll(fds)
	clear(fds)
	if err != nil {
		s.reply(conn, failure(err))
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1))
	}()
	select {
	case result := <-command.done:
		s.reply(conn, Response{Code: exitCode(result)})
	case <-gone:
		s.killExec(command.identity.PID)
		<-command.done
	}
	_ = conn.Close()
	<-gone
}

// killExec kills the process group of an exec while it is not reaped.
func (s *shim) killExec(pid int) {
	s.processes.mu.Lock()
	defer s.processes.mu.Unlock()
	if _, running := s.processes.waiters[pid]; running {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
}

// childFiles are the three standard streams of a command.
type childFiles struct {
	files []uintptr
	null  int
}

func (c *childFiles) close() {
	if c.null >= 0 {
		_ = unix.Close(c.null)
		c.null = -1
	}
}

// execFiles puts received descriptors in their places and /dev/null in the others. With a terminal
// there is one descriptor for all.
func execFiles(request *Request, fds []int) (*childFiles, error) {
	c := &childFiles{null: -1}
	if request.TTY {
		if len(fds) != 1 {
			return c, errors.New("an exec with a terminal needs one descriptor")
		}
		fd := uintptr(fds[0])
		c.files = []uintptr{fd, fd, fd}
		return c, nil
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return c, err
	}
	c.null = null
	for _, wanted := range []bool{request.Stdin, request.Stdout, request.Stderr} {
		if !wanted {
			c.files = append(c.files, uintptr(null))
			continue
		}
		if len(fds) == 0 {
			c.close()
			return c, errors.New("a descriptor is missing")
		}
		c.files = append(c.files, uintptr(fds[0]))
		fds = fds[1:]
	}
	return c, nil
}

// attach connects a client to the main process until it ends or the client goes away.
func (s *shim) attach(conn *net.UnixConn, request *Request, fds []int) {
	select {
	case s.attached <- struct{}{}:
		defer func() { <-s.attached }()
	default:
		closeAll(fds)
		s.reply(conn, Response{Error: fmt.Sprintf("%d clients are attached already", maxAttached)})
		return
	}
	var stdin *os.File
	client := &sink{}
	for _, stream := range []struct {
		wanted bool
		file   **os.File
	}{{request.Stdin, &stdin}, {request.Stdout, &client.stdout}, {request.Stderr, &client.stderr}} {
		if !stream.wanted || len(fds) == 0 {
			continue
		}
		_ = unix.SetNonblock(fds[0], true)
		*stream.file = os.NewFile(uintptr(fds[0]), "attach")
		fds = fds[1:]
	}
	if !s.stdio.attach(client) {
		s.reply(conn, failure(errEnded))
		return
	}
	defer s.stdio.detach(client)
	s.reply(conn, Response{})
	fed, gone := make(chan struct{}), make(chan struct{})
	if stdin != nil {
		go func() {
			defer close(fed)
			s.stdio.feed(stdin, gone)
		}()
	} else {
		close(fed)
	}
	go func() {
		defer close(gone)
		s.resizes(conn)
	}()
	select {
	case <-gone:
	case <-s.ended:
	}
	_ = conn.Close()
	if stdin != nil {
		_ = stdin.Close()
	}
	<-gone
	<-fed
}

func (s *shim) resizes(conn *net.UnixConn) {
	for {
		request := &Request{}
		files, err := receive(conn, request)
		closeAll(files)
		if err != nil {
			return
		}
		if request.Op == opResize {
			s.stdio.resize(request.Width, request.Height)
		}
	}
}

func (s *shim) reply(conn *net.UnixConn, r Response) bool {
	data, err := json.Marshal(r)
	if err == nil {
		_, err = conn.Write(data)
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, net.ErrClosed) {
		fmt.Fprintln(os.Stderr, err)
	}
	return err == nil
}

func failure(err error) Response {
	if err == nil {
		return Response{}
	}
	return Response{Error: err.Error()}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd > 0 {
			_ = unix.Close(fd)
		}
	}
}

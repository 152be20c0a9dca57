package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxRequest bounds the size of a request in bytes.
const maxRequest = 1 << 20

// Supervisor keeps services running. There may be only one in a process, because it reaps every
// child of the process.
type Supervisor struct {
	reaper *reaper

	mu    sync.Mutex
	units map[string]*unit
	order []string
	wg    sync.WaitGroup
	end   context.CancelFunc
}

// Run serves the control socket at path until ctx ends or a client asks for the end. It then stops
// the services, last started first, kills whatever descendants are left, and returns.
func Run(ctx context.Context, path string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of orphaned descendants: %w", err)
	}
	listener, err := listen(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &Supervisor{reaper: newReaper(), units: map[string]*unit{}, end: cancel}
	go func() {
		<-ctx.Done()
		_ = listener.Close()
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			break
		}
		s.wg.Go(func() { s.serve(conn) })
	}
	s.stopAll()
	killDescendants(5 * time.Second)
	s.wg.Wait()
	s.reaper.stop()
	_ = os.Remove(path)
	return nil
}

// serve answers one request.
func (s *Supervisor) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var req request
	var resp response
	if err := json.NewDecoder(io.LimitReader(conn, maxRequest)).Decode(&req); err != nil {
		resp.Error = fmt.Sprintf("bad request: %v", err)
	} else if services, err := s.do(&req); err != nil {
		resp.Error = err.Error()
	} else {
		resp.Services = services
	}
	_ = json.NewEncoder(conn).Encode(&resp)
}

func (s *Supervisor) do(req *request) ([]Status, error) {
	switch req.Op {
	case opStart:
		return nil, s.start(req.Service, req.Name)
	case opStop:
		u, err := s.unit(req.Name)
		if err != nil {
			return nil, err
		}
		u.stop()
		return nil, nil
	case opSignal:
		u, err := s.unit(req.Name)
		if err != nil {
			return nil, err
		}
		return nil, u.signal(syscall.Signal(req.Signal))
	case opList:
		return s.list(), nil
	case opShutdown:
		s.end()
		return nil, nil
	}
	return nil, fmt.Errorf("unknown operation %q", req.Op)
}

// start starts a new service, or one that was stopped. A definition replaces that of a stopped
// service; starting a service that runs is no error.
func (s *Supervisor) start(svc *Service, name string) error {
	if svc != nil {
		if err := svc.validate(); err != nil {
			return err
		}
		name = svc.Name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[name]
	if u == nil {
		if svc == nil {
			return fmt.Errorf("there is no service %q", name)
		}
		u = &unit{reaper: s.reaper, service: *svc, stopped: true}
		s.units[name] = u
		s.order = append(s.order, name)
	}
	return u.start(svc)
}

func (s *Supervisor) unit(name string) (*unit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.units[name]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("there is no service %q", name)
}

func (s *Supervisor) list() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Status, 0, len(s.order))
	for _, name := range s.order {
		list = append(list, s.units[name].status())
	}
	return list
}

func (s *Supervisor) stopAll() {
	s.mu.Lock()
	order := slices.Clone(s.order)
	s.mu.Unlock()
	slices.Reverse(order)
	for _, name := range order {
		if u, err := s.unit(name); err == nil {
			u.stop()
		}
	}
}

// listen makes the control socket, for its owner only. The path goes through a file descriptor of
// the directory, because the path of a unix socket may have 107 bytes at most.
func listen(path string) (net.Listener, error) {
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, os.Chmod(path, 0o600)
}

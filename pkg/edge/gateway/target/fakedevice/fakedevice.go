// Package fakedevice is a device for unit tests of what uses the gateway's sessions: it implements
// gateway.Session over streams in memory, and answers as a device does. It has no link, no identity
// and no pods. End-to-end tests use real devices.
package fakedevice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/test/framework/eventually"
)

// Handler serves one stream on the device. It must end with s.Finish, or leave the stream to break.
type Handler func(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream)

// Session is the link to a fake device.
type Session struct {
	device  gateway.Device
	handler Handler
	info    gateway.Info

	done     chan struct{}
	doneOnce sync.Once
	wg       sync.WaitGroup
	open     atomic.Int32
	opened   atomic.Int32
}

var _ gateway.Session = &Session{}

// New returns a session whose streams are served by handler. It ends with the test, which fails if a
// stream does not.
func New(t testing.TB, device gateway.Device, info gateway.Info, handler Handler) *Session {
	s := &Session{device: device, handler: handler, info: info, done: make(chan struct{})}
	t.Cleanup(func() {
		s.Close(errors.New("the test is over"))
		s.wg.Wait()
	})
	return s
}

// Device implements gateway.Session.
func (s *Session) Device() gateway.Device { return s.device }

// Hello implements gateway.Session.
func (s *Session) Hello() *edgeapi.Hello { return &edgeapi.Hello{} }

// Send implements gateway.Session. Nobody receives.
func (s *Session) Send(*edgeapi.ServerMessage) error { return gateway.ErrBusy }

// Info implements gateway.Session.
func (s *Session) Info() gateway.Info { return s.info }

// Done implements gateway.Session.
func (s *Session) Done() <-chan struct{} { return s.done }

// Close implements gateway.Session.
func (s *Session) Close(error) { s.doneOnce.Do(func() { close(s.done) }) }

// Open is the number of streams that are open.
func (s *Session) Open() int { return int(s.open.Load()) }

// Idle waits until no stream is open.
func (s *Session) Idle(t testing.TB) {
	t.Helper()
	eventually.Succeeds(t, func() error {
		if n := s.Open(); n > 0 {
			return fmt.Errorf("%d streams are open on the device", n)
		}
		return nil
	})
}

// Opened is the number of streams that were ever opened.
func (s *Session) Opened() int { return int(s.opened.Load()) }

// OpenStream implements gateway.Session.
func (s *Session) OpenStream(ctx context.Context, req *edgeapi.OpenStream) (*stream.Stream, error) {
	select {
	case <-s.done:
		return nil, gateway.NewOfflineError(s.device)
	default:
	}
	serverCall, deviceCall, end := newCalls()
	s.open.Add(1)
	s.opened.Add(1)
	server := stream.NewServer(serverCall, end)
	served := make(chan struct{})
	s.wg.Go(func() {
		defer s.open.Add(-1)
		server.Serve()
		close(served)
		end()
	})
	s.wg.Go(func() {
		select {
		case <-served:
		case <-s.done:
			server.Close()
		}
	})
	s.wg.Go(func() {
		device := stream.NewDevice(deviceCall)
		defer device.Close()
		s.handler(device.Context(), proto.CloneOf(req), device)
		if device.Context().Err() == nil {
			end()
		}
	})
	result, err := server.Started(ctx)
	if err == nil {
		err = gateway.ResultError(s.device, result)
	}
	if err != nil {
		server.Close()
		return nil, err
	}
	return server, nil
}

// Sessions are the links of a gateway.
type Sessions []gateway.Session

var _ gateway.Sessions = Sessions{}

// Session implements gateway.Sessions.
func (s Sessions) Session(namespace, name string) (gateway.Session, bool) {
	for _, session := range s {
		if d := session.Device(); d.Namespace == namespace && d.Name == name {
			return session, true
		}
	}
	return nil, false
}

// call is one end of a gRPC call in memory.
type call struct {
	ctx context.Context
	in  <-chan *edgeapi.StreamFrame
	out chan<- *edgeapi.StreamFrame
	// closed says that the peer sends nothing more.
	closed <-chan struct{}
	// closeSend is the device's half-close.
	closeSend func()
}

// newCalls returns both ends of a call, and what the server's handler does by returning.
func newCalls() (server, device *call, end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	up, down := make(chan *edgeapi.StreamFrame), make(chan *edgeapi.StreamFrame)
	upClosed := make(chan struct{})
	var once sync.Once
	server = &call{ctx: ctx, in: up, out: down, closed: upClosed, closeSend: func() {}}
	device = &call{ctx: ctx, in: down, out: up, closed: ctx.Done(), closeSend: func() { once.Do(func() { close(upClosed) }) }}
	return server, device, cancel
}

// Context implements stream.Call.
func (c *call) Context() context.Context { return c.ctx }

// Send implements stream.Call. Like gRPC it keeps nothing of the frame.
func (c *call) Send(f *edgeapi.StreamFrame) error {
	select {
	case c.out <- proto.CloneOf(f):
		return nil
	case <-c.ctx.Done():
		return io.EOF
	}
}

// Recv implements stream.Call.
func (c *call) Recv() (*edgeapi.StreamFrame, error) {
	select {
	case f := <-c.in:
		return f, nil
	case <-c.closed:
		return nil, io.EOF
	case <-c.ctx.Done():
		return nil, io.EOF
	}
}

// CloseSend is that of a gRPC client's call.
func (c *call) CloseSend() error {
	c.closeSend()
	return nil
}

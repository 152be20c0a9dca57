package gateway

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/note"
)

// Connect implements the control stream.
func (g *Gateway) Connect(call grpc.BidiStreamingServer[edgeapi.DeviceMessage, edgeapi.ServerMessage]) error {
	info, c, err := deviceFrom(call.Context())
	if err != nil {
		return err
	}
	// What it takes to admit a device would stay on the stack of this goroutine as long as the device is
	// connected.
	var s *session
	var resumed bool
	admitted := make(chan struct{})
	go func() {
		defer close(admitted)
		s, resumed, err = g.admit(call, info, c)
	}()
	<-admitted
	if err != nil {
		g.tellRefused(info, c, err)
		info.conn.release()
		return err
	}
	defer info.conn.release()

	if resumed {
		g.work.Go(func() { s.take(call.Recv) })
	} else {
		g.work.Go(func() { s.receive(call.Recv) })
	}
	select {
	case <-info.conn.parked:
		return nil
	case <-s.done:
		return s.status()
	}
}

// admit admits a device, and hears what it begins with: Hello, or that it goes on with a session that was parked.
func (g *Gateway) admit(call grpc.BidiStreamingServer[edgeapi.DeviceMessage, edgeapi.ServerMessage], info *peerInfo, c *credential) (s *session, resumed bool, err error) {
	ctx, conn := call.Context(), info.conn
	if time.Now().After(c.notAfter) {
		refused.WithLabelValues(refusedExpired).Inc()
		return nil, false, status.Errorf(codes.Unauthenticated, "the device certificate expired at %s; renew it first",
			c.notAfter.UTC().Format(time.RFC3339))
	}
	ed, err := g.authorize(ctx, c)
	if err != nil {
		return nil, false, err
	}
	if err := conn.permits(c.device); err != nil {
		return nil, false, err
	}
	conn.admit()
	first, err := call.Recv() // or the connection is closed by its timer
	if err != nil {
		return nil, false, status.Errorf(codes.Canceled, "no Hello: %s", status.Convert(err).Message())
	}
	welcome := g.welcomeFor(ed, conn.Method())
	if m := first.GetResume(); m != nil {
		s, err = g.resume(call.Send, info, c, m, welcome)
		return s, true, err
	}
	hello := first.GetHello()
	if hello == nil {
		return nil, false, status.Error(codes.InvalidArgument, "protocol violation: the first message must be Hello")
	}
	s = g.newSession(info, c, hello)
	s.welcome, s.welcomeVersion = digest(welcome), ed.ResourceVersion
	return s, false, g.begin(ctx, call.Send, s, welcome)
}

// newSession is the session of a device that was admitted and has said Hello.
func (g *Gateway) newSession(info *peerInfo, c *credential, hello *edgeapi.Hello) *session {
	s := &session{
		gateway: g, device: c.device, keyHash: c.keyHash,
		since: time.Now(), done: make(chan struct{}), ended: make(chan struct{}),
	}
	s.conn.Store(info.conn)
	s.hello.Store(hello)
	s.nodeStatus.Store(hello.GetNodeStatus())
	s.certificate(c.notBefore, c.notAfter)
	s.out.spawn = g.work.Go
	s.out.fail = func(err error) { s.Close(s.broken(err)) }
	s.out.wake = s.wake
	if slices.Contains(hello.GetFeatures(), note.Feature) {
		s.parking.keys = info.keys
	}
	return s
}

// begin has a session take the place of the former one of its device, and answers Hello.
func (g *Gateway) begin(ctx context.Context, send func(*edgeapi.ServerMessage) error, s *session, welcome *edgeapi.Welcome) error {
	if err := g.install(ctx, s); err != nil {
		return err
	}
	if err := send(welcomeMessage(welcome)); err != nil {
		s.abandon(err)
		return err
	}
	conn := s.conn.Load()
	conn.hold()
	s.out.open(send)
	g.pinger.add(s, time.Duration(welcome.HeartbeatIntervalMs)*time.Millisecond)
	s.log().Info("A device connected", "method", conn.Method(), "agentVersion", s.Hello().GetAgentVersion())
	return nil
}

func welcomeMessage(w *edgeapi.Welcome) *edgeapi.ServerMessage {
	return &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Welcome{Welcome: w}}
}

// install makes s the session of its device, after the former one has ended.
func (g *Gateway) install(ctx context.Context, s *session) error {
	former, ok := g.registry.put(s)
	if !ok {
		close(s.ended)
		return status.Errorf(codes.Unavailable, "replica %s is shutting down", g.config.Replica)
	}
	alive := former != nil && !former.isOver()
	if former != nil {
		former.Close(status.Error(codes.Aborted, "the device connected again; if it did not, another machine uses a copy of its identity"))
		if err := former.waitEnded(ctx); err != nil {
			s.abandon(err)
			return err
		}
	}
	// The EdgeDevice may have been deleted, or a session may have been ended, since it was looked up.
	if _, no := g.judge(s.device, s.keyHash, true); no != nil && no.reason != refusedError {
		refused.WithLabelValues(no.reason).Inc()
		s.abandon(no.err)
		return no.err
	}
	if alive {
		g.tookOver(s, former)
	}
	return nil
}

// isOver says whether the session has ended.
func (s *session) isOver() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// abandon ends a session that the handler was never told of.
func (s *session) abandon(reason error) {
	s.Close(reason)
	close(s.ended)
}

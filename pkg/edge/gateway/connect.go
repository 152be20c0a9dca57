package gateway

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
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
	admitted := make(chan struct{})
	go func() {
		defer close(admitted)
		s, err = g.newSession(call, info.conn, c)
	}()
	<-admitted
	if err != nil {
		g.logger.V(2).Info("Refused a device", "edgeDevice", klog.KRef(c.device.Namespace, c.device.Name),
			"remote", remoteAddress(info.conn), "reason", status.Convert(err).Message())
		info.conn.release()
		return err
	}
	defer info.conn.release()

	g.work.Go(func() { s.receive(call.Recv) })
	<-s.done
	return s.status()
}

// newSession admits a device, hears its Hello, and takes the place of its former session.
func (g *Gateway) newSession(call grpc.BidiStreamingServer[edgeapi.DeviceMessage, edgeapi.ServerMessage], conn *deviceConn, c *credential) (*session, error) {
	ctx := call.Context()
	if time.Now().After(c.notAfter) {
		refused.WithLabelValues(refusedExpired).Inc()
		return nil, status.Errorf(codes.Unauthenticated, "the device certificate expired at %s; renew it first",
			c.notAfter.UTC().Format(time.RFC3339))
	}
	ed, err := g.authorize(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := conn.permits(c.device); err != nil {
		return nil, err
	}
	conn.admit()
	first, err := call.Recv() // or the connection is closed by its timer
	if err != nil {
		return nil, status.Errorf(codes.Canceled, "no Hello: %s", status.Convert(err).Message())
	}
	hello := first.GetHello()
	if hello == nil {
		return nil, status.Error(codes.InvalidArgument, "protocol violation: the first message must be Hello")
	}

	s := &session{
		gateway: g, device: c.device, keyHash: c.keyHash, conn: conn,
		since: time.Now(), done: make(chan struct{}), ended: make(chan struct{}),
	}
	welcome := g.welcomeFor(ed)
	s.welcome, s.welcomeVersion = digest(welcome), ed.ResourceVersion
	s.hello.Store(hello)
	s.nodeStatus.Store(hello.GetNodeStatus())
	s.certificate(c.notBefore, c.notAfter)
	s.out.send = call.Send
	s.out.spawn = g.work.Go
	s.out.fail = func(err error) { s.Close(s.broken(err)) }
	if err := g.install(ctx, s); err != nil {
		return nil, err
	}
	if err := call.Send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Welcome{Welcome: welcome}}); err != nil {
		s.abandon(err)
		return nil, err
	}
	conn.hold()
	s.out.open()
	g.pinger.add(s, time.Duration(welcome.HeartbeatIntervalMs)*time.Millisecond)
	s.log().Info("A device connected", "method", conn.Method(), "agentVersion", hello.GetAgentVersion())
	return s, nil
}

// install makes s the session of its device, after the former one has ended.
func (g *Gateway) install(ctx context.Context, s *session) error {
	former, ok := g.registry.put(s)
	if !ok {
		close(s.ended)
		return status.Errorf(codes.Unavailable, "replica %s is shutting down", g.config.Replica)
	}
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
	return nil
}

// abandon ends a session that the handler was never told of.
func (s *session) abandon(reason error) {
	s.Close(reason)
	close(s.ended)
}

package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/pkg/edge/stream"
)

// pendingStreams are the streams that devices were asked to open.
type pendingStreams struct {
	mu   sync.Mutex
	byID map[string]*pendingStream
}

type pendingStream struct {
	session *session
	kind    edgeapi.TrafficKind
	arrived chan *stream.Stream // holds one
}

func (p *pendingStreams) init() { p.byID = map[string]*pendingStream{} }

func (p *pendingStreams) add(s *session, kind edgeapi.TrafficKind) (string, *pendingStream) {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	id := base64.RawURLEncoding.EncodeToString(b[:])
	ps := &pendingStream{session: s, kind: kind, arrived: make(chan *stream.Stream, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byID[id] = ps
	return id, ps
}

// take returns the stream that was asked for under this id over this connection, once.
func (p *pendingStreams) take(id string, conn *deviceConn) *pendingStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	ps := p.byID[id]
	if ps == nil || ps.session.conn.Load() != conn {
		return nil
	}
	delete(p.byID, id)
	return ps
}

// giveUp takes an id out of use. It returns false if the device's stream was taken already.
func (p *pendingStreams) giveUp(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.byID[id]
	delete(p.byID, id)
	return ok
}

// OpenStream implements Session.
func (s *session) OpenStream(ctx context.Context, req *edgeapi.OpenStream) (*stream.Stream, error) {
	kind := traffic.Name(traffic.KindOf(req))
	st, err := s.openStream(ctx, req)
	if err != nil {
		streamsTotal.WithLabelValues(kind, "error").Inc()
		return nil, err
	}
	streamsTotal.WithLabelValues(kind, "ok").Inc()
	return st, nil
}

func (s *session) openStream(ctx context.Context, req *edgeapi.OpenStream) (*stream.Stream, error) {
	if !s.reserveStream() {
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("EdgeDevice %s has %d streams open, which is the limit; "+
			"close some and try again", s.device, s.gateway.config.MaxStreams), 1)
	}
	id, pending := s.gateway.pending.add(s, traffic.KindOf(req))
	req.Id = id
	st, err := s.await(ctx, req, pending)
	if s.gateway.pending.giveUp(id) {
		s.freeStream() // it never came; otherwise its call frees it
		return nil, err
	}
	if err != nil {
		(<-pending.arrived).Close() // it came just now
		return nil, err
	}
	result, err := st.Started(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		err = ctx.Err()
	case err != nil:
		err = apierrors.NewServiceUnavailable(fmt.Sprintf("EdgeDevice %s: the session was cut off before it had begun: %v", s.device, err))
	case result.GetReason() != "":
		err = resultError(s.device, result)
	}
	if err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

// await asks the device to open a stream and waits for it.
func (s *session) await(ctx context.Context, req *edgeapi.OpenStream, pending *pendingStream) (*stream.Stream, error) {
	msg := &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_OpenStream{OpenStream: req}}
	asked := time.Now()
	switch err := s.out.put(msg, true); {
	case errors.Is(err, ErrClosed):
		return nil, NewOfflineError(s.device)
	case errors.Is(err, ErrTooLarge):
		return nil, apierrors.NewRequestEntityTooLargeError("the command is too long for the device")
	case err != nil:
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("EdgeDevice %s does not keep up with what it was sent; try again", s.device), 1)
	}
	s.expect(asked)
	select {
	case st := <-pending.arrived:
		return st, nil
	case <-s.done:
		return nil, NewOfflineError(s.device)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *session) reserveStream() bool {
	if s.streams.Add(1) > int32(s.gateway.config.MaxStreams) {
		s.streams.Add(-1)
		return false
	}
	streamCount.Inc()
	return true
}

func (s *session) freeStream() {
	s.streams.Add(-1)
	streamCount.Dec()
}

// maxOpening bounds how many first frames of a connection are read at the same time: each may be as large as
// any message, and until then it is not known whether anybody waits for the stream.
const maxOpening = 16

// firstFrame reads the first frame of a stream, after those that began to be read before, if there are many.
func firstFrame(call grpc.BidiStreamingServer[edgeapi.StreamFrame, edgeapi.StreamFrame], conn *deviceConn) (*edgeapi.StreamFrame, error) {
	select {
	case conn.opening <- struct{}{}:
		defer func() { <-conn.opening }()
		return call.Recv()
	case <-call.Context().Done():
		return nil, status.FromContextError(call.Context().Err()).Err()
	}
}

// Stream implements the call that carries one session.
func (g *Gateway) Stream(call grpc.BidiStreamingServer[edgeapi.StreamFrame, edgeapi.StreamFrame]) error {
	info, err := peerFrom(call.Context())
	if err != nil {
		return err
	}
	first, err := firstFrame(call, info.conn)
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return status.Error(codes.InvalidArgument, "protocol violation: the first frame must be StreamOpen")
	}
	pending := g.pending.take(open.GetId(), info.conn)
	if pending == nil {
		return status.Error(codes.NotFound, "nobody waits for this stream (any more)")
	}
	s := pending.session
	defer s.freeStream()
	traffic.SetKind(call.Context(), pending.kind)
	st := stream.NewServer(servedCall{call, s}, abortFrom(call.Context()))
	s.hold(st)
	defer s.letGo(st)
	pending.arrived <- st
	st.Serve()
	if st.Left() && slices.Contains(s.Hello().GetFeatures(), stream.FeatureClose) {
		// If it cannot be sent the link breaks, or the device is busy: the end of the call comes later.
		_ = s.out.put(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_CloseStream{CloseStream: &edgeapi.CloseStream{Id: open.GetId()}}}, true)
	}
	return nil
}

// hold has a stream end with the session.
func (s *session) hold(st *stream.Stream) {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	if s.open == nil {
		s.open = map[*stream.Stream]struct{}{}
	}
	s.open[st] = struct{}{}
	select {
	case <-s.done: // just now
		st.CloseWith(s.cutOff(nil))
	default:
	}
}

func (s *session) letGo(st *stream.Stream) {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	if delete(s.open, st); len(s.open) == 0 {
		s.open = nil
	}
}

// cutStreams ends all streams. It is called when the session is over.
func (s *session) cutStreams() {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	for st := range s.open {
		st.CloseWith(s.cutOff(nil))
	}
}

// servedCall is the call of a stream. Its errors say why the device is lost, for which gRPC has no words.
type servedCall struct {
	stream.Call
	session *session
}

// Recv implements stream.Call.
func (c servedCall) Recv() (*edgeapi.StreamFrame, error) {
	frame, err := c.Call.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		err = c.session.cutOff(err)
	}
	return frame, err
}

// cutOff says why a stream ends before its time, for the error of its call. The session may not know yet that its link
// is broken.
func (s *session) cutOff(err error) error {
	conn := s.conn.Load()
	switch {
	case s.isOver():
		err = s.reason
	case conn.Failure() != nil, conn.Ended():
		err = s.broken(err)
	case status.Code(err) == codes.Canceled:
		return errors.New("the device ended it, as when its agent stops")
	}
	return errors.New(status.Convert(err).Message())
}

type abortKey struct{}

// withAbort makes the context that a call has from its beginning one that can be ended: what waits for the
// device in a handler has no other end from this side.
func withAbort(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	return context.WithValue(ctx, abortKey{}, cancel)
}

// abortFrom returns what ends such a context.
func abortFrom(ctx context.Context) context.CancelFunc {
	cancel, _ := ctx.Value(abortKey{}).(context.CancelFunc)
	return cancel
}

package uplink

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/pkg/edge/stream"
)

// streams opens the streams that the server asks for.
type streams struct {
	handler Handler
	client  edgeapi.EdgeClient
	traffic *traffic.Counters
	slots   chan struct{} // for streams that are served
	spare   chan struct{} // for streams that are refused for want of a slot
	running sync.WaitGroup

	ctx    context.Context
	cancel context.CancelFunc

	mu   sync.Mutex
	open map[string]context.CancelFunc // by id; ends the stream
}

func newStreams(handler Handler, conn grpc.ClientConnInterface, counters *traffic.Counters, limit int) *streams {
	s := &streams{
		handler: handler,
		client:  edgeapi.NewEdgeClient(conn),
		traffic: counters,
		slots:   make(chan struct{}, limit),
		spare:   make(chan struct{}, 8),
		open:    map[string]context.CancelFunc{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// serve serves a stream in a goroutine of its own. One too many is refused, and one too many of those
// dropped: the server gives up on it by itself.
func (s *streams) serve(ctx context.Context, req *edgeapi.OpenStream) {
	logger := klog.FromContext(ctx)
	select {
	case s.slots <- struct{}{}:
		s.running.Go(func() {
			defer func() { <-s.slots }()
			s.run(logger, req, s.handler.Stream)
		})
		return
	default:
	}
	select {
	case s.spare <- struct{}{}:
		s.running.Go(func() {
			defer func() { <-s.spare }()
			s.run(logger, req, refuseStream)
		})
	default:
		logger.Info("Dropped a request for a stream: too many are open", "limit", cap(s.slots))
	}
}

func refuseStream(_ context.Context, _ *edgeapi.OpenStream, st *stream.Stream) {
	_ = st.Finish(&edgeapi.Result{
		Reason:  string(metav1.StatusReasonTooManyRequests),
		Message: "too many streams are open on the device; close some and try again",
	})
}

func (s *streams) run(logger klog.Logger, req *edgeapi.OpenStream, handle func(context.Context, *edgeapi.OpenStream, *stream.Stream)) {
	ctx, cancel := context.WithCancel(klog.NewContext(s.ctx, logger))
	defer cancel()
	s.note(req.GetId(), cancel)
	defer s.note(req.GetId(), nil)
	call, err := s.call(s.traffic.Context(ctx, traffic.KindOf(req)), req.GetId())
	if err != nil {
		logger.V(2).Info("A stream could not be opened", "reason", plain(err).Error())
		return
	}
	st := stream.NewDevice(call)
	defer func() {
		st.Close()
		cancel()
		<-st.Done()
	}()
	handle(st.Context(), req, st)
	if !st.Finished() && st.Context().Err() == nil {
		_ = st.Finish(&edgeapi.Result{
			Reason:  string(metav1.StatusReasonInternalError),
			Message: "the agent ended the session without a result",
		})
	}
}

// call begins a stream. It does so in a goroutine of its own, whose stack goes with it: that of the session
// would grow for this, and stay large as long as the session lasts.
func (s *streams) call(ctx context.Context, id string) (call grpc.BidiStreamingClient[edgeapi.StreamFrame, edgeapi.StreamFrame], err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if call, err = s.client.Stream(ctx, grpc.MaxCallRecvMsgSize(maxFrame)); err == nil {
			err = call.Send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Open{Open: &edgeapi.StreamOpen{Id: id}}})
		}
	}()
	<-done
	return call, err
}

// note keeps what ends a stream; nil: there is no such stream any more.
func (s *streams) note(id string, cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel == nil {
		delete(s.open, id)
		return
	}
	s.open[id] = cancel
}

// end ends a stream whose user has left.
func (s *streams) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.open[id]; cancel != nil {
		cancel()
	}
}

// count is how many streams are open.
func (s *streams) count() int { return len(s.slots) + len(s.spare) }

// busy tells whether a stream is open.
func (s *streams) busy() bool { return s.count() > 0 }

// cut ends all streams.
func (s *streams) cut() { s.cancel() }

// stop ends all streams, and closes the channel when they have ended. No more may be opened.
func (s *streams) stop() (ended <-chan struct{}) {
	s.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.running.Wait()
	}()
	return done
}

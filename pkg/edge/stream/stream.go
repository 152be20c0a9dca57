// Package stream gives one Stream call of the edge protocol the shape that both of its ends work
// with: readers and writers per channel, half-close, terminal sizes and a final result. It knows
// nothing of what the bytes mean, nor of who the peer is.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	// MaxFrame is the most data in one frame, in bytes.
	MaxFrame = 32 << 10
	// sendFrame is how much is sent in one frame. With its wrapping it fits into a buffer of 32 KiB,
	// the size in which gRPC pools them; the next larger one has 1 MiB.
	sendFrame = MaxFrame - 64
	// queuedFrames is how many frames of a channel wait for a reader that is slower than the link.
	// When they are full nothing more is received, and HTTP/2 flow control holds up the sender.
	queuedFrames = 2
	// channels is the number of channels that the protocol has.
	channels = 3
)

// ErrClosed says that this end closed the stream.
var ErrClosed = errors.New("the stream is closed")

// FeatureClose is what a device announces that ends a stream by CloseStream. The end of the call itself does not reach
// it before all that was sent, which it may have no room for.
const FeatureClose = "close-stream"

// Call is what the two ends of a gRPC Stream call have in common.
type Call interface {
	Context() context.Context
	Send(*edgeapi.StreamFrame) error
	Recv() (*edgeapi.StreamFrame, error)
}

// Stream is one exec, attach, log or port-forward session. Its methods may be called concurrently;
// a reader or writer of a channel is for one goroutine at a time.
//
// Data of all channels come over one call. A channel that nobody reads therefore stops the others
// once its small queue is full: read each channel that was asked for, or close its reader.
type Stream struct {
	call   Call
	device bool
	// abort ends the context of a server's call.
	abort context.CancelFunc

	ctx    context.Context
	cancel context.CancelCauseFunc

	sendMu sync.Mutex
	// sealed says that nothing may be sent any more. It is set under sendMu, and read without it by the
	// receiving side, for which a sender may be waiting.
	sealed atomic.Bool

	in      [channels]*reader
	out     [channels]*writer
	resizes chan *edgeapi.TerminalSize

	ready     chan struct{} // closed by StreamReady, or by data that came before
	readyOnce sync.Once

	closed    chan struct{} // closed by Close
	closeOnce sync.Once
	closeErr  error // set before closed is closed

	gone     chan struct{} // closed once sending has shown that the call is over
	goneOnce sync.Once

	// over is closed when nothing more will be received; result and err are set before that.
	over   chan struct{}
	result *edgeapi.Result
	err    error
}

// NewServer returns the server's end of a call whose StreamOpen frame was already received. The RPC
// handler must call Serve, without which nothing is received. The function abort ends the context of the call;
// Close needs it.
func NewServer(call Call, abort context.CancelFunc) *Stream {
	s := newStream(call, false, edgeapi.Channel_STDOUT, edgeapi.Channel_STDERR)
	s.abort = abort
	return s
}

// NewDevice returns the device's end of a call on which StreamOpen was already sent. Cancelling the
// call's context ends the stream at once.
func NewDevice(call Call) *Stream {
	s := newStream(call, true, edgeapi.Channel_STDIN)
	go s.receive()
	return s
}

func newStream(call Call, device bool, readable ...edgeapi.Channel) *Stream {
	s := &Stream{
		call:    call,
		device:  device,
		resizes: make(chan *edgeapi.TerminalSize, 1),
		ready:   make(chan struct{}),
		closed:  make(chan struct{}),
		gone:    make(chan struct{}),
		over:    make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(call.Context())
	for _, ch := range readable {
		s.in[ch] = newReader(s)
	}
	for ch := range s.out {
		if s.in[ch] == nil {
			s.out[ch] = &writer{stream: s, channel: edgeapi.Channel(ch)}
		}
	}
	return s
}

// Context ends when the stream is over for whatever reason, with the reason as its cause.
func (s *Stream) Context() context.Context { return s.ctx }

// Reader returns the reader of a channel that the peer writes: STDOUT and STDERR on the server, STDIN
// on the device. It returns io.EOF once the peer closed the channel or ended the session, and another
// error if the stream broke. Closing it discards what is still to come.
func (s *Stream) Reader(ch edgeapi.Channel) io.ReadCloser { return s.reader(ch) }

func (s *Stream) reader(ch edgeapi.Channel) *reader {
	if ch < 0 || ch >= channels || s.in[ch] == nil {
		panic(fmt.Sprintf("stream: channel %v is not readable at this end", ch))
	}
	return s.in[ch]
}

// Writer returns the writer of a channel: STDIN on the server, STDOUT and STDERR on the device. Write
// blocks while the peer does not read. Close half-closes the channel.
func (s *Stream) Writer(ch edgeapi.Channel) io.WriteCloser {
	if ch < 0 || ch >= channels || s.out[ch] == nil {
		panic(fmt.Sprintf("stream: channel %v is not writable at this end", ch))
	}
	return s.out[ch]
}

// Resizes delivers the terminal's sizes on the device. Only the latest is kept for a slow receiver. It
// is closed when the stream is over.
func (s *Stream) Resizes() <-chan *edgeapi.TerminalSize { return s.resizes }

// Resize tells the device the size of the terminal, in character cells.
func (s *Stream) Resize(width, height uint16) error {
	return s.send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Resize{
		Resize: &edgeapi.TerminalSize{Width: uint32(width), Height: uint32(height)},
	}})
}

// Ready tells the server that what was asked for has begun. Until then a failing Result is reported
// to the user as an API status. For the device's end; call it once.
func (s *Stream) Ready() error {
	return s.send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Ready{Ready: &edgeapi.StreamReady{}}})
}

// Finish sends the result, waits until the server has received all that was sent before, and ends the
// stream. For the device's end. What the server still sends is discarded. A nil result is success.
func (s *Stream) Finish(result *edgeapi.Result) error {
	if result == nil {
		result = &edgeapi.Result{}
	}
	for _, r := range s.in {
		if r != nil {
			_ = r.Close()
		}
	}
	if err := s.sendLast(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Result{Result: result}}); err != nil {
		s.Close()
		return err
	}
	<-s.over
	if s.err != nil {
		return fmt.Errorf("the result may not have reached the server: %w", s.err)
	}
	return nil
}

// Started waits until the device says that it has begun. For the server's end. If the session ended
// before that it returns the result.
func (s *Stream) Started(ctx context.Context) (*edgeapi.Result, error) {
	select {
	case <-s.ready:
		return nil, nil
	case <-s.over:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-s.ready:
		return nil, nil
	default:
		return s.result, s.err
	}
}

// Wait waits until the session is over and returns its result, or an error if the stream broke or was
// closed before there was one. For the server's end.
func (s *Stream) Wait(ctx context.Context) (*edgeapi.Result, error) {
	select {
	case <-s.over:
		return s.result, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Result is what Wait returns if the session is over, and nil before.
func (s *Stream) Result() *edgeapi.Result {
	select {
	case <-s.over:
		return s.result
	default:
		return nil
	}
}

// Done is closed when nothing more will be received: after the result, an error, or Close.
func (s *Stream) Done() <-chan struct{} { return s.over }

// Close ends the stream at once, from either end, without a result. It does nothing to a stream that
// is over, of which the rest can still be read, but must be called for every stream.
func (s *Stream) Close() { s.CloseWith(ErrClosed) }

// CloseWith is Close for a reason, which whoever uses the stream is told.
func (s *Stream) CloseWith(reason error) {
	select {
	case <-s.over:
		return
	default:
	}
	s.closeOnce.Do(func() {
		s.closeErr = reason
		close(s.closed)
		s.cancel(reason)
		if s.abort != nil {
			s.abort()
		}
	})
}

// Serve receives on a server's call until the session is over or this end closes it. The RPC handler returns
// right after it, which ends the call.
func (s *Stream) Serve() { s.receive() }

// Left says whether the user of this end closed the stream before the other had ended it.
func (s *Stream) Left() bool { return s.isClosed() && errors.Is(s.closeErr, ErrClosed) }

func (s *Stream) send(f *edgeapi.StreamFrame) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.sendLocked(f)
}

func (s *Stream) sendLocked(f *edgeapi.StreamFrame) error {
	if s.sealed.Load() {
		return ErrClosed
	}
	return s.sendAny(f)
}

func (s *Stream) sendAny(f *edgeapi.StreamFrame) error {
	select {
	case <-s.over:
		return s.overErr()
	case <-s.closed:
		return s.closeErr
	default:
	}
	if err := s.call.Send(f); err != nil {
		if errors.Is(err, io.EOF) { // the call is over; why, only Recv knows
			s.goneOnce.Do(func() { close(s.gone) })
			return s.overErr()
		}
		return err
	}
	return nil
}

func (s *Stream) sendLast(f *edgeapi.StreamFrame) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	// First: the server may end the call before Send returns.
	if s.sealed.Swap(true) {
		return ErrClosed
	}
	if err := s.sendAny(f); err != nil {
		return err
	}
	if c, ok := s.call.(interface{ CloseSend() error }); ok {
		return c.CloseSend()
	}
	return nil
}

// overErr waits for the receiving side to find out why the call ended, which it does soon.
func (s *Stream) overErr() error {
	select {
	case <-s.over:
	case <-s.closed:
		return s.closeErr
	}
	if s.err != nil {
		return s.err
	}
	return io.ErrClosedPipe
}

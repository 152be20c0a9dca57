package stream

import (
	"errors"
	"fmt"
	"io"
	"sync"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/ondemand"
)

// receive hands out frames until the call is over. What runs it is the only goroutine of a stream: the one of
// the RPC handler on the server, one of its own on the device.
func (s *Stream) receive() {
	err := s.receiveAll()
	switch {
	case s.result != nil:
		err = nil
	case s.isClosed():
		err = s.closeErr
	case errors.Is(err, io.EOF) && s.device && s.Finished():
		err = nil // the server ended the call after the result: all has arrived
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("the peer closed the stream: %w", io.ErrUnexpectedEOF)
	}
	s.err = err
	close(s.over)
	for _, r := range s.in {
		if r != nil {
			r.end()
		}
	}
	close(s.resizes)
	if err == nil {
		err = ErrClosed
	}
	s.cancel(err)
}

func (s *Stream) receiveAll() error {
	for {
		frame, err := s.call.Recv()
		if err != nil {
			return err
		}
		if err := s.handle(frame); err != nil || s.result != nil {
			return err
		}
	}
}

func (s *Stream) handle(frame *edgeapi.StreamFrame) error {
	switch f := frame.GetFrame().(type) {
	case *edgeapi.StreamFrame_Data:
		r, err := s.incoming(f.Data.GetChannel())
		if err != nil {
			return err
		}
		data := f.Data.GetData()
		if len(data) > MaxFrame {
			return fmt.Errorf("protocol violation: a frame of %d bytes; the limit is %d", len(data), MaxFrame)
		}
		// Output can overtake StreamReady on the device. It is read only once the session has begun.
		s.begun()
		return r.push(data)
	case *edgeapi.StreamFrame_Close:
		r, err := s.incoming(f.Close)
		if err != nil {
			return err
		}
		r.end()
	case *edgeapi.StreamFrame_Resize:
		if s.device {
			s.resize(f.Resize)
		}
	case *edgeapi.StreamFrame_Ready:
		s.begun()
	case *edgeapi.StreamFrame_Result:
		if s.device || f.Result == nil {
			return errors.New("protocol violation: unexpected result")
		}
		s.result = f.Result
	default:
		// A kind of frame from a later version. What it would need is announced as a feature first.
	}
	return nil
}

// begun notes that what was asked for has begun.
func (s *Stream) begun() { s.readyOnce.Do(func() { close(s.ready) }) }

func (s *Stream) incoming(ch edgeapi.Channel) (*reader, error) {
	if ch < 0 || ch >= channels || s.in[ch] == nil {
		return nil, fmt.Errorf("protocol violation: channel %d is not the peer's to write", ch)
	}
	return s.in[ch], nil
}

func (s *Stream) resize(size *edgeapi.TerminalSize) {
	select {
	case <-s.resizes: // only the latest counts
	default:
	}
	s.resizes <- size
}

func (s *Stream) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Finished tells whether Finish was called.
func (s *Stream) Finished() bool { return s.sealed.Load() }

// reader is the receiving side of a channel.
type reader struct {
	stream *Stream
	frames chan []byte
	rest   []byte // of the frame being read

	ended     bool // frames is closed; for the receiving goroutine only
	discard   chan struct{}
	closeOnce sync.Once

	forwarder ondemand.Forwarder // woken when anything happens to the reader
}

func newReader(s *Stream) *reader {
	return &reader{stream: s, frames: make(chan []byte, queuedFrames), discard: make(chan struct{})}
}

func (r *reader) push(data []byte) error {
	if r.ended {
		return errors.New("protocol violation: data on a channel that was closed")
	}
	if len(data) == 0 {
		return nil
	}
	select {
	case <-r.discard:
		return nil
	case <-r.stream.gone: // a frame before was not taken
		return nil
	default:
	}
	select {
	case r.frames <- data:
		r.forwarder.Wake()
		return nil
	case <-r.discard:
		return nil
	case <-r.stream.gone:
		return nil
	case <-r.stream.ctx.Done():
		return r.stream.ctx.Err()
	}
}

func (r *reader) end() {
	if !r.ended {
		r.ended = true
		close(r.frames)
		r.forwarder.Wake()
	}
}

// Read implements io.Reader. What had arrived before the stream ended is still returned.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.taken(n)
	return n, nil
}

// WriteTo implements io.WriterTo, for io.Copy: without a buffer, which a session at rest would hold for
// nothing.
func (r *reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if err := r.fill(); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return written, err
		}
		n, err := r.writeRest(w)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}

// writeRest writes what is left of the frame being read.
func (r *reader) writeRest(w io.Writer) (int, error) {
	n, err := w.Write(r.rest)
	r.taken(n)
	if err == nil && len(r.rest) > 0 {
		err = io.ErrShortWrite
	}
	return n, err
}

// fill waits until rest holds something.
func (r *reader) fill() error {
	if some, err := r.poll(); some || err != nil {
		return err
	}
	select {
	case <-r.discard:
		return io.ErrClosedPipe
	case <-r.stream.closed:
		return r.stream.closeErr
	case data, ok := <-r.frames:
		return r.take(data, ok)
	}
}

// poll tells whether rest holds something, without waiting for it.
func (r *reader) poll() (some bool, err error) {
	select {
	case <-r.discard:
		return false, io.ErrClosedPipe
	default:
	}
	if len(r.rest) > 0 {
		return true, nil
	}
	select {
	case <-r.stream.closed:
		return false, r.stream.closeErr
	case data, ok := <-r.frames:
		return ok, r.take(data, ok)
	default:
		return false, nil
	}
}

// take begins with what has come from frames.
func (r *reader) take(data []byte, ok bool) error {
	if !ok {
		return r.endErr()
	}
	r.rest = data
	return nil
}

func (r *reader) taken(n int) {
	if r.rest = r.rest[n:]; len(r.rest) == 0 {
		r.rest = nil
	}
}

func (r *reader) endErr() error {
	select {
	case <-r.stream.over:
		if r.stream.err != nil {
			return r.stream.err
		}
	default: // closed by the peer, the session goes on
	}
	return io.EOF
}

// Close discards what is still to come.
func (r *reader) Close() error {
	r.closeOnce.Do(func() {
		close(r.discard)
		r.forwarder.Wake()
	})
	return nil
}

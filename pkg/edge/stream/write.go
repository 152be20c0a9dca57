package stream

import (
	"io"
	"sync"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// writer is the sending side of a channel.
type writer struct {
	stream  *Stream
	channel edgeapi.Channel
	closed  bool // guarded by stream.sendMu
}

// Write implements io.Writer. It splits p into frames, between which other channels get their turn.
func (w *writer) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n := min(len(p)-written, sendFrame)
		if err := w.writeFrame(p[written : written+n]); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// quietBuffer is what a writer waits for data with, in bytes: enough for keys and short answers.
const quietBuffer = 512

// ReadFrom implements io.ReaderFrom, for io.Copy. It holds a large buffer only as long as much comes at a
// time: sessions are mostly at rest.
func (w *writer) ReadFrom(from io.Reader) (written int64, err error) {
	quiet := make([]byte, quietBuffer)
	var large *[sendFrame]byte
	defer func() { largeBuffers.put(large) }()
	for {
		buffer := quiet
		if large != nil {
			buffer = large[:]
		}
		n, readErr := from.Read(buffer)
		if n > 0 {
			sent, err := w.Write(buffer[:n])
			written += int64(sent)
			if err != nil {
				return written, err
			}
		}
		if readErr == io.EOF {
			return written, nil
		}
		if readErr != nil {
			return written, readErr
		}
		switch {
		case large == nil && n == len(quiet):
			large = largeBuffers.get()
		case large != nil && n < len(quiet):
			largeBuffers.put(large)
			large = nil
		}
	}
}

// largeBuffers are shared by the writers of all streams.
var largeBuffers bufferPool

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) get() *[sendFrame]byte {
	if b, ok := p.pool.Get().(*[sendFrame]byte); ok {
		return b
	}
	return new([sendFrame]byte)
}

func (p *bufferPool) put(b *[sendFrame]byte) {
	if b != nil {
		p.pool.Put(b)
	}
}

func (w *writer) writeFrame(p []byte) error {
	s := w.stream
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if w.closed {
		return io.ErrClosedPipe
	}
	// gRPC encodes the frame before Send returns: p is the caller's again.
	return s.sendLocked(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Data{
		Data: &edgeapi.Data{Channel: w.channel, Data: p},
	}})
}

// Close tells the peer that no more data will come on this channel.
func (w *writer) Close() error {
	s := w.stream
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	return s.sendLocked(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Close{Close: w.channel}})
}

package spdy

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"arhat.dev/aranya/pkg/ondemand"
)

const (
	// maxData is the most data in a frame that is sent: with its header it makes 32 KiB.
	maxData = 32<<10 - frameHeader
	// queued is how many pieces of at most maxData wait for a reader that is slower than the client. Then
	// nothing more is read from the connection: SPDY's flow control is not used in Kubernetes.
	queued = 16
)

// ErrReset says that either end has reset the stream: nothing more goes either way.
var ErrReset = errors.New("the stream was reset")

// Stream is a stream that the client has opened. It implements httpstream.Stream. Reading and writing are
// for one goroutine each, the other methods for any.
type Stream struct {
	conn    *Conn
	id      uint32
	headers http.Header

	data chan []byte // closed by endInput
	rest []byte      // of the piece being read

	forwarder ondemand.Forwarder // woken when anything happens to the stream

	// Guarded by conn.mu.
	inputOver, outputOver bool

	gone     chan struct{} // closed when the stream was reset by either end
	goneOnce sync.Once
}

func newStream(c *Conn, id uint32, headers http.Header) *Stream {
	return &Stream{conn: c, id: id, headers: headers, data: make(chan []byte, queued), gone: make(chan struct{})}
}

// Headers are those with which the client opened the stream.
func (s *Stream) Headers() http.Header { return s.headers }

// Identifier is the number of the stream in its connection.
func (s *Stream) Identifier() uint32 { return s.id }

// Read implements io.Reader. The end of the connection is an end of the stream, too.
func (s *Stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		select {
		case <-s.gone:
			return 0, ErrReset
		case data, ok := <-s.data:
			if !ok {
				return 0, io.EOF
			}
			s.rest = data
		}
	}
	n := copy(p, s.rest)
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		s.rest = nil
	}
	return n, nil
}

// push hands data to the reader. It is false if nobody wants them any more.
func (s *Stream) push(data []byte) bool {
	s.conn.mu.Lock()
	over := s.inputOver
	s.conn.mu.Unlock()
	if over {
		return false
	}
	select {
	case s.data <- data:
		s.forwarder.Wake()
		return true
	default:
	}
	probe := time.NewTicker(s.conn.probeInterval)
	defer probe.Stop()
	for {
		select {
		case s.data <- data:
			s.forwarder.Wake()
			return true
		case <-s.gone:
			return false
		case <-s.conn.closed:
			return false
		case <-probe.C:
			go s.conn.probe() // it may block
		}
	}
}

// endInput ends reading after what was pushed. It is for the goroutine that pushes.
func (s *Stream) endInput() {
	s.conn.mu.Lock()
	if !s.inputOver {
		s.inputOver = true
		close(s.data)
	}
	s.conn.mu.Unlock()
	s.forwarder.Wake()
}

// over tells whether both directions are. The caller holds conn.mu.
func (s *Stream) over() bool { return s.inputOver && s.outputOver }

// cut ends both directions at once. It tells whether the output was still open.
func (s *Stream) cut() bool {
	s.conn.mu.Lock()
	open := !s.outputOver
	s.inputOver, s.outputOver = true, true
	s.conn.mu.Unlock()
	s.goneOnce.Do(func() {
		close(s.gone)
		s.forwarder.Wake()
	})
	s.conn.forget(s)
	return open
}

// frames hold one data frame while it is written.
var frames = sync.Pool{New: func() any { return new([frameHeader + maxData]byte) }}

// Write implements io.Writer. It blocks while the client does not read.
func (s *Stream) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n := min(len(p)-written, maxData)
		s.conn.mu.Lock()
		over := s.outputOver
		s.conn.mu.Unlock()
		if over {
			return written, io.ErrClosedPipe
		}
		if err := s.writeData(p[written:written+n], 0); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

func (s *Stream) writeData(data []byte, flags byte) error {
	frame := frames.Get().(*[frameHeader + maxData]byte)
	defer frames.Put(frame)
	binary.BigEndian.PutUint32(frame[:], s.id)
	binary.BigEndian.PutUint32(frame[4:], uint32(flags)<<24|uint32(len(data)))
	n := frameHeader + copy(frame[frameHeader:], data)
	s.conn.writeMu.Lock()
	defer s.conn.writeMu.Unlock()
	return s.conn.writeLocked(frame[:n])
}

// Close tells the client that no more is written. Reading goes on.
func (s *Stream) Close() error {
	s.conn.mu.Lock()
	open := !s.outputOver
	s.outputOver = true
	s.conn.mu.Unlock()
	if !open {
		return nil
	}
	err := s.writeData(nil, fin)
	s.conn.forget(s)
	return err
}

// Reset ends both directions at once, and tells the client.
func (s *Stream) Reset() error {
	if !s.cut() {
		return nil
	}
	return s.conn.reset(s.id, cancelled)
}

package stream

import (
	"errors"
	"fmt"
	"io"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// Conn is the view of a Dial session: one byte stream each way, with half-close.
type Conn struct {
	stream *Stream
	r      *reader
	w      *writer
}

// Conn returns the Dial view of the stream: the server writes STDIN and reads STDOUT, the device the
// other way round.
func (s *Stream) Conn() *Conn {
	in, out := edgeapi.Channel_STDOUT, edgeapi.Channel_STDIN
	if s.device {
		in, out = out, in
	}
	return &Conn{stream: s, r: s.in[in], w: s.out[out]}
}

// Read implements io.Reader. A connection that the device could not carry to its end gives an error
// instead of io.EOF.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if errors.Is(err, io.EOF) {
		if cut := c.cut(); cut != nil {
			err = cut
		}
	}
	return n, err
}

// cut tells, at the end, why the device could not carry the connection that far; nil if it has.
func (c *Conn) cut() error {
	if result := c.stream.Result(); result.GetReason() != "" {
		return fmt.Errorf("the device ended the connection: %s", result.GetMessage())
	}
	return nil
}

// WriteTo implements io.WriterTo, for io.Copy.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, c.r)
	if err == nil {
		err = c.cut()
	}
	return n, err
}

// Forward is to WriteTo as a callback is to a call: it returns at once, and what comes is written to w until
// the end, of which done is told. No goroutine waits meanwhile. It takes the place of all reading.
func (c *Conn) Forward(w io.Writer, done func(error)) {
	c.r.forward(w, func(err error) {
		if err == nil {
			err = c.cut()
		}
		done(err)
	})
}

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) { return c.w.Write(p) }

// ReadFrom implements io.ReaderFrom, for io.Copy.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.w, r) }

// CloseWrite half-closes the connection: the peer reads EOF.
func (c *Conn) CloseWrite() error { return c.w.Close() }

// Close ends the connection both ways. On the server it ends the stream. On the device the session goes on
// until Stream.Finish, whose result is the end of what is sent: one that came before would look like a proper end.
func (c *Conn) Close() error {
	_ = c.r.Close()
	if !c.stream.device {
		c.stream.Close()
	}
	return nil
}

package link

import (
	"context"
	"errors"
	"net"
)

// MaxNote is how many bytes a note may have.
const MaxNote = 2 << 10

// Parker is a connection that can be given up without losing touch with the other end: one over a broker, to
// which both ends stay connected.
type Parker interface {
	// Park returns what is left of the connection once it is closed, which is up to whoever calls it. heard is
	// told of each note that comes, lost at most once when touch is lost otherwise than by Close or Dial; Close is
	// still to be called then. Neither may block, or call back.
	Park(heard func(note []byte), lost func(error)) (Parked, error)
}

// Parked is in touch with the other end of a connection that was given up. Its methods may be called
// concurrently.
type Parked interface {
	// Note sends the other end a few bytes, from 1 to MaxNote. They may be lost, or come twice.
	Note(note []byte)
	// Dial makes a new connection, from the device's end. This Parked is over then, whether that succeeds or not.
	Dial(ctx context.Context) (*Conn, error)
	// Close lets go.
	Close()
}

// CanPark says whether the connection's transport knows how to.
func (c *Conn) CanPark() bool {
	_, ok := c.Conn.(Parker)
	return ok
}

// Park implements Parker.
func (c *Conn) Park(heard func([]byte), lost func(error)) (Parked, error) {
	if p, ok := c.Conn.(Parker); ok {
		return p.Park(heard, lost)
	}
	return nil, errors.ErrUnsupported
}

// Noted counts the bytes of notes, once they have turned out to be from the other end, as if they were the
// connection's.
func (c *Conn) Noted(received, sent int) {
	now := sinceEpoch()
	if received > 0 {
		c.bytesIn.Add(int64(received))
		c.lastRead.Store(now)
	}
	if sent > 0 {
		c.bytesOut.Add(int64(sent))
		c.lastWrite.Store(now)
	}
}

// Rested returns what is worth keeping of a connection that was given up: its addresses and counts. It counts on
// by Noted.
func (c *Conn) Rested() *Conn {
	r := NewConn(&rested{local: c.LocalAddr(), remote: c.RemoteAddr()}, c.method)
	r.Inherit(c)
	r.lastRead.Store(c.lastRead.Load())
	r.lastWrite.Store(c.lastWrite.Load())
	r.failure.Store(c.failure.Load())
	return r
}

// Inherit has the connection count on from where a former one of the same link has stopped.
func (c *Conn) Inherit(former *Conn) {
	c.bytesIn.Add(former.BytesIn())
	c.bytesOut.Add(former.BytesOut())
}

// rested is a connection that is over.
type rested struct {
	net.Conn      // nil
	local, remote net.Addr
}

func (*rested) Read([]byte) (int, error)  { return 0, net.ErrClosed }
func (*rested) Write([]byte) (int, error) { return 0, net.ErrClosed }
func (*rested) Close() error              { return net.ErrClosed }
func (r *rested) LocalAddr() net.Addr     { return r.local }
func (r *rested) RemoteAddr() net.Addr    { return r.remote }

// Package link holds the transports of the device link: ways to get a net.Conn between a device and
// the gateway. What runs over it (TLS, gRPC) is the business of pkg/edge/gateway and
// pkg/edge/agent/uplink; a transport only moves bytes in order, and counts them.
package link

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Names of transports, as in EdgeDevice status.link.method.
const (
	MethodGRPC      = "grpc" // plain TCP
	MethodWebSocket = "websocket"
	MethodMQTT      = "mqtt"
)

// Methods lists them.
var Methods = []string{MethodGRPC, MethodWebSocket, MethodMQTT}

// Dialer is the device's end of a transport.
type Dialer interface {
	// Dial connects to a gateway. What an address looks like is up to the transport.
	Dial(ctx context.Context, address string) (*Conn, error)
}

// epoch is what times are counted from that are kept as a number: a clock that is set does not change them.
var epoch = time.Now()

func sinceEpoch() int64 { return int64(time.Since(epoch)) }

// atEpoch is the moment so many nanoseconds after epoch, as the clock is set now. Its distance from others does not
// depend on that.
func atEpoch(nanoseconds int64) time.Time {
	now := time.Now()
	return now.Add(time.Duration(nanoseconds) - now.Sub(epoch))
}

// Conn counts what passes through a connection and remembers when. Both ends wrap the connection below
// TLS in it, so that the count is what the network carries.
type Conn struct {
	net.Conn
	method string
	host   string

	bytesIn, bytesOut   atomic.Int64
	lastRead, lastWrite atomic.Int64 // nanoseconds since epoch
	failure             atomic.Pointer[error]
	ended               atomic.Bool
}

// NewConn wraps a fresh connection of the transport that method names.
func NewConn(c net.Conn, method string) *Conn {
	l := &Conn{Conn: c, method: method}
	now := sinceEpoch()
	l.lastRead.Store(now)
	l.lastWrite.Store(now)
	return l
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.bytesIn.Add(int64(n))
		c.lastRead.Store(sinceEpoch())
	}
	c.note(err)
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if n > 0 {
		c.bytesOut.Add(int64(n))
		c.lastWrite.Store(sinceEpoch())
	}
	c.note(err)
	return n, err
}

// note keeps the first error of the network, and that the other end is done.
func (c *Conn) note(err error) {
	switch {
	case errors.Is(err, io.EOF):
		c.ended.Store(true)
	case err == nil, errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
	default:
		c.failure.CompareAndSwap(nil, &err)
	}
}

// Failure is the error that broke the connection, nil if none did: what is above often hides it.
func (c *Conn) Failure() error {
	if err := c.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Ended says whether the connection was closed from the other end, in good order.
func (c *Conn) Ended() bool { return c.ended.Load() }

// Settler is a connection whose transport lets few devices in at a time.
type Settler interface {
	// Settled says that a device is in, or will not be let in, so that the next one may come.
	Settled()
}

// Settled implements Settler, for the server's end of any transport.
func (c *Conn) Settled() {
	if s, ok := c.Conn.(Settler); ok {
		s.Settled()
	}
}

// Abandoner is a device's end of a connection of whose transport something can be kept for the next one.
type Abandoner interface {
	// Abandoned says that it is the server that has ended the link, so that the device will dial again soon.
	Abandoned()
}

// Abandoned implements Abandoner, for any transport. It is called before Close.
func (c *Conn) Abandoned() {
	if a, ok := c.Conn.(Abandoner); ok {
		a.Abandoned()
	}
}

// WithHost notes the host that was dialled, for a transport where it leads to the gateway. It is for
// dialers, before the connection is used.
func (c *Conn) WithHost(host string) *Conn {
	c.host = host
	return c
}

// Host is the name that TLS should send as server name, empty for none: an ingress may need it.
func (c *Conn) Host() string { return c.host }

// Method is the name of the transport.
func (c *Conn) Method() string { return c.method }

// BytesIn is how many bytes were read from the network.
func (c *Conn) BytesIn() int64 { return c.bytesIn.Load() }

// BytesOut is how many bytes were written to the network.
func (c *Conn) BytesOut() int64 { return c.bytesOut.Load() }

// LastRead is when bytes were last read; at first, when the connection was made.
func (c *Conn) LastRead() time.Time { return atEpoch(c.lastRead.Load()) }

// LastWrite is when bytes were last written; at first, when the connection was made.
func (c *Conn) LastWrite() time.Time { return atEpoch(c.lastWrite.Load()) }

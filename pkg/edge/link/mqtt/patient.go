package mqtt

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// patient is the TCP connection to a broker. It alone says when a broker takes nothing any more: each write has
// writeTime, and anew whenever the broker has taken some of it meanwhile. What is above it knows only when a packet was
// begun, and a packet of 64 KiB, in several TLS records or WebSocket frames, takes longer on a slow link.
type patient struct {
	net.Conn

	mu  sync.Mutex // held until all was written: nothing may come in between
	err error      // of the last write, which is final
}

// dialPatient makes the TCP connection.
func (c BrokerConfig) dialPatient(ctx context.Context, network, address string) (net.Conn, error) {
	if c.dialer == nil {
		c.dialer = link.NetDialer()
	}
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &patient{Conn: conn}, nil
}

// Write implements net.Conn.
func (p *patient) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	written := 0
	for p.err == nil {
		if p.err = p.Conn.SetWriteDeadline(time.Now().Add(writeTime)); p.err != nil {
			break
		}
		n, err := p.Conn.Write(b[written:])
		written += n
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			p.err = err
			return written, err
		}
	}
	return written, p.err
}

// SetWriteDeadline implements net.Conn. What is above sets one for each packet, or frame; here each write has one.
func (p *patient) SetWriteDeadline(time.Time) error { return nil }

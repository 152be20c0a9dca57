package gateway_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"arhat.dev/aranya/pkg/edge/link"
)

// countingDialer tells of each attempt.
type countingDialer struct {
	mu     sync.Mutex
	conns  []*link.Conn
	failed chan struct{} // may be nil
}

func (c *countingDialer) Dial(ctx context.Context, address string) (*link.Conn, error) {
	conn, err := link.TCP{}.Dial(ctx, address)
	if err != nil {
		if c.failed != nil {
			c.failed <- struct{}{}
		}
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	return conn, nil
}

func (c *countingDialer) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.conns)
}

func (c *countingDialer) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// freezer makes connections over which, once frozen, nothing is read or written, as if the network was
// gone without a word.
type freezer struct {
	frozen atomic.Bool
	mu     sync.Mutex
	conns  []net.Conn
}

func (f *freezer) Dial(ctx context.Context, address string) (*link.Conn, error) {
	if f.frozen.Load() {
		return nil, errors.New("frozen")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fc := &frozenConn{Conn: c, freezer: f, closed: make(chan struct{})}
	f.conns = append(f.conns, fc)
	return link.NewConn(fc, link.MethodGRPC), nil
}

func (f *freezer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

type frozenConn struct {
	net.Conn
	freezer *freezer
	once    sync.Once
	closed  chan struct{}
}

func (c *frozenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.freezer.frozen.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *frozenConn) Write(p []byte) (int, error) {
	if c.freezer.frozen.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *frozenConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

package fleet

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// gate is what all links pass through.
type gate struct {
	closed atomic.Bool

	mu                       sync.Mutex
	conns                    map[*link.Conn]time.Time // when they were made
	endedSent, endedReceived int64
}

var errCut = errors.New("the network was made to fail")

func (g *gate) cut() {
	g.closed.Store(true)
	g.mu.Lock()
	conns := slices.Collect(maps.Keys(g.conns))
	g.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (g *gate) len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

func (g *gate) since(t time.Time) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, made := range g.conns {
		if made.After(t) {
			n++
		}
	}
	return n
}

func (g *gate) bytes() (sent, received int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sent, received = g.endedSent, g.endedReceived
	for c := range g.conns {
		sent, received = sent+c.BytesOut(), received+c.BytesIn()
	}
	return sent, received
}

// gated is the dialer of a device.
type gated struct {
	link.Dialer
	gate *gate
}

// Dial implements link.Dialer.
func (d *gated) Dial(ctx context.Context, address string) (*link.Conn, error) {
	if d.gate.closed.Load() {
		return nil, errCut
	}
	c, err := d.Dialer.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	d.gate.mu.Lock()
	defer d.gate.mu.Unlock()
	if d.gate.closed.Load() { // meanwhile
		_ = c.Close()
		return nil, errCut
	}
	d.gate.conns[c] = time.Now()
	c.Conn = &counted{Conn: c.Conn, closed: sync.OnceFunc(func() {
		d.gate.mu.Lock()
		defer d.gate.mu.Unlock()
		d.gate.endedSent += c.BytesOut()
		d.gate.endedReceived += c.BytesIn()
		delete(d.gate.conns, c)
	})}
	return c, nil
}

// counted tells when a connection is closed.
type counted struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	err := c.Conn.Close()
	c.closed()
	return err
}

package fleet

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	"arhat.dev/aranya/pkg/edge/link"
)

// gate is what all links pass through, and counts them.
type gate struct {
	mu                       sync.Mutex
	links                    map[*gatedLink]struct{}
	endedSent, endedReceived int64
}

// gatedLink is a link, of one connection after the other if it is parked in between.
type gatedLink struct {
	gate *gate
	made time.Time

	// Guarded by gate.mu.
	conn   *link.Conn // the last one
	parked bool
	over   bool
}

func (g *gate) len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.links)
}

func (g *gate) since(t time.Time) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for l := range g.links {
		if l.made.After(t) {
			n++
		}
	}
	return n
}

func (g *gate) bytes() (sent, received int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sent, received = g.endedSent, g.endedReceived
	for l := range g.links {
		sent, received = sent+l.conn.BytesOut(), received+l.conn.BytesIn()
	}
	return sent, received
}

// gated is the dialer of a device.
type gated struct {
	uplink.Chooser
	gate *gate
}

// Dial implements link.Dialer.
func (d *gated) Dial(ctx context.Context, address string) (*link.Conn, error) {
	return d.gate.dial(ctx, d.Chooser, address)
}

// Better implements uplink.Chooser.
func (d *gated) Better() link.Dialer {
	if better := d.Chooser.Better(); better != nil {
		return &gatedBetter{better, d.gate}
	}
	return nil
}

// Prefer implements uplink.Chooser.
func (d *gated) Prefer(better link.Dialer) {
	if b, ok := better.(*gatedBetter); ok {
		d.Chooser.Prefer(b.Dialer)
	}
}

// Close implements io.Closer.
func (d *gated) Close() error {
	if c, ok := d.Chooser.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// gatedBetter is a dialer of better links.
type gatedBetter struct {
	link.Dialer
	gate *gate
}

// Dial implements link.Dialer.
func (b *gatedBetter) Dial(ctx context.Context, address string) (*link.Conn, error) {
	return b.gate.dial(ctx, b.Dialer, address)
}

// dial makes a link that passes.
func (g *gate) dial(ctx context.Context, dialer link.Dialer, address string) (*link.Conn, error) {
	c, err := dialer.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return g.let(&gatedLink{gate: g, made: time.Now()}, c), nil
}

// let lets a connection pass: the first of a link, or a further one.
func (g *gate) let(l *gatedLink, c *link.Conn) *link.Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.links == nil {
		g.links = map[*gatedLink]struct{}{}
	}
	g.links[l] = struct{}{}
	if l.conn != nil {
		g.endedSent, g.endedReceived = g.endedSent+l.conn.BytesOut(), g.endedReceived+l.conn.BytesIn()
	}
	l.conn, l.parked = c, false
	inner := &gatedConn{Conn: c.Conn, link: l, conn: c}
	if c.CanPark() {
		c.Conn = &parkable{inner}
	} else {
		c.Conn = inner
	}
	return c
}

// endLocked takes the link off the count.
func (l *gatedLink) endLocked() {
	if l.over || l.conn == nil {
		return
	}
	l.over = true
	l.gate.endedSent += l.conn.BytesOut()
	l.gate.endedReceived += l.conn.BytesIn()
	delete(l.gate.links, l)
}

func (l *gatedLink) end() {
	l.gate.mu.Lock()
	defer l.gate.mu.Unlock()
	l.endLocked()
}

// gatedConn tells when a connection is closed.
type gatedConn struct {
	net.Conn
	link *gatedLink
	conn *link.Conn
}

// Close implements net.Conn.
func (c *gatedConn) Close() error {
	err := c.Conn.Close()
	c.link.gate.mu.Lock()
	defer c.link.gate.mu.Unlock()
	if c.link.conn == c.conn && !c.link.parked {
		c.link.endLocked()
	}
	return err
}

// Abandoned implements link.Abandoner.
func (c *gatedConn) Abandoned() {
	if a, ok := c.Conn.(link.Abandoner); ok {
		a.Abandoned()
	}
}

// parkable is a connection that can be parked.
type parkable struct{ *gatedConn }

// Park implements link.Parker.
func (c *parkable) Park(heard func([]byte), lost func(error)) (link.Parked, error) {
	parked, err := c.Conn.(link.Parker).Park(heard, func(err error) {
		c.link.end()
		lost(err)
	})
	if err != nil {
		return nil, err
	}
	c.link.gate.mu.Lock()
	c.link.parked = true
	c.link.gate.mu.Unlock()
	return &gatedRest{parked, c.link}, nil
}

// gatedRest is a link that is parked.
type gatedRest struct {
	link.Parked
	link *gatedLink
}

// Dial implements link.Parked.
func (r *gatedRest) Dial(ctx context.Context) (*link.Conn, error) {
	c, err := r.Parked.Dial(ctx)
	if err != nil {
		r.link.end()
		return nil, err
	}
	return r.link.gate.let(r.link, c), nil
}

// Close implements link.Parked.
func (r *gatedRest) Close() {
	r.Parked.Close()
	r.link.end()
}

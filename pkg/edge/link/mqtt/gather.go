package mqtt

import (
	"net"
	"sync"
	"time"
)

// maxGathered is how many bytes may wait to be written. Whoever has more to write waits.
const maxGathered = 64 << 10

// gatherer writes what comes while a write is under way in one piece afterwards. The MQTT library writes each
// packet by itself; a server, whose packets of all devices go over one connection, would pay for a TLS record and a
// system call each, and the broker would, too.
type gatherer struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond // of mu
	waiting []byte
	spare   []byte // the memory of the last write
	writing bool   // write is at it
	err     error  // what ended it
}

func newGatherer(c net.Conn) *gatherer {
	g := &gatherer{Conn: c}
	g.changed.L = &g.mu
	return g
}

// Write implements net.Conn. That it returns without an error does not mean that p was written, as with any
// connection, but it will be, unless the connection ends.
func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) > 0 && len(g.waiting)+len(p) > maxGathered && g.err == nil {
		g.changed.Wait()
	}
	if g.err != nil {
		return 0, g.err
	}
	g.waiting = append(g.waiting, p...)
	if !g.writing {
		g.writing = true
		go g.write()
	}
	return len(p), nil
}

// Read implements net.Conn. It tells why a write failed: that the connection was closed tells the library that the
// client has closed it.
func (g *gatherer) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.err != nil {
			err = g.err
		}
	}
	return n, err
}

// write writes until nothing more waits. Each write has a time limit, so that it ends.
func (g *gatherer) write() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) > 0 && g.err == nil {
		packets := g.waiting
		g.waiting = g.spare[:0]
		g.mu.Unlock()
		err := g.Conn.SetWriteDeadline(time.Now().Add(writeTime))
		if err == nil {
			_, err = g.Conn.Write(packets)
		}
		g.mu.Lock()
		g.spare = packets
		if err != nil && g.err == nil {
			g.err = err
			_ = g.Conn.Close() // whoever reads finds out, see Read
		}
		g.changed.Broadcast()
	}
	_ = g.Conn.SetWriteDeadline(time.Time{})        // a WebSocket writes of its own accord, too
	g.waiting, g.spare, g.writing = nil, nil, false // a connection at rest should not hold them
	g.changed.Broadcast()
}

// Close implements net.Conn. What was written before is still sent: that the client takes its leave, usually.
func (g *gatherer) Close() error {
	g.mu.Lock()
	timer := time.AfterFunc(disconnectTime*time.Millisecond, func() { _ = g.Conn.Close() })
	for g.writing {
		g.changed.Wait()
	}
	timer.Stop()
	if g.err == nil {
		g.err = net.ErrClosed
	}
	g.mu.Unlock()
	return g.Conn.Close()
}

// SetWriteDeadline implements net.Conn. The library sets one for each packet; here each write has one.
func (g *gatherer) SetWriteDeadline(time.Time) error { return nil }

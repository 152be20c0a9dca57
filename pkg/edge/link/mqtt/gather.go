package mqtt

import (
	"net"
	"sync"
	"time"
)

const (
	// maxGathered is how many bytes may wait to be written before whoever has a message waits.
	maxGathered = 64 << 10
	// maxHeld is the same for the MQTT library. It is more than the messages take that it has been handed by then, so
	// that only a broker that keeps sending and reads nothing gets there.
	maxHeld = 4 * maxPayload
)

// gatherer writes what comes while a write is under way in one piece afterwards. The MQTT library writes each
// packet by itself; a server, whose packets of all devices go over one connection, would pay for a TLS record and a
// system call each, and the broker would, too. And the library gives up on a message whose turn to be written does not
// come soon, so it must not have to wait while a slow link takes the one before.
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
	for len(g.waiting) >= maxHeld && g.err == nil {
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

// room waits until there is room for a message, or the connection is over.
func (g *gatherer) room() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) >= maxGathered && g.err == nil {
		g.changed.Wait()
	}
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

// write writes until nothing more waits. It ends if the broker takes nothing any more, see patient.
func (g *gatherer) write() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) > 0 && g.err == nil {
		packets := g.waiting
		g.waiting = g.spare[:0]
		g.mu.Unlock()
		_, err := g.Conn.Write(packets)
		g.mu.Lock()
		g.spare = packets
		if err != nil && g.err == nil {
			g.err = err
			_ = g.Conn.Close() // whoever reads finds out, see Read
		}
		g.changed.Broadcast()
	}
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

// SetWriteDeadline implements net.Conn. The library sets one for each packet, which is for patient to judge.
func (g *gatherer) SetWriteDeadline(time.Time) error { return nil }

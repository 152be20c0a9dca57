package leaseclient

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sendAfter is how long what is written may wait for more: Leases become due in groups, and HTTP/2 writes the
	// header and the body of each on its own.
	sendAfter = time.Millisecond
	// receiveAfter is how long answers are left to gather before they are read.
	receiveAfter = 10 * time.Millisecond
	// maxGathered is how much is gathered before it is sent at once.
	maxGathered = 64 << 10
)

// gatheringConn makes few system calls of many small writes and reads, and wakes few goroutines up for them, at the
// price of some milliseconds. An error in sending shows at the next write, and closes the connection.
type gatheringConn struct {
	net.Conn
	timer  *time.Timer  // sends
	heard  atomic.Int64 // when something was read last, or the connection made, in Unix nanoseconds
	closed func()       // nil: nobody wants to know

	mu      sync.Mutex // also held while sending
	waiting []byte
	err     error
}

func gather(conn net.Conn) *gatheringConn {
	c := &gatheringConn{Conn: conn}
	c.heard.Store(time.Now().UnixNano())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(time.Hour, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.send()
	})
	return c
}

// Write implements net.Conn.
func (c *gatheringConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if len(c.waiting) == 0 {
		c.timer.Reset(sendAfter)
	}
	c.waiting = append(c.waiting, p...)
	if len(c.waiting) >= maxGathered {
		c.send()
	}
	return len(p), c.err
}

func (c *gatheringConn) send() {
	if len(c.waiting) == 0 || c.err != nil {
		return
	}
	if _, c.err = c.Conn.Write(c.waiting); c.err != nil {
		_ = c.Conn.Close() // whoever waits for an answer must know
	}
	c.waiting = c.waiting[:0]
}

// Read implements net.Conn.
func (c *gatheringConn) Read(p []byte) (int, error) {
	time.Sleep(receiveAfter)
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// Close implements net.Conn. What was not sent by then is lost, as is what was not answered.
func (c *gatheringConn) Close() error {
	c.timer.Stop()
	if c.closed != nil {
		c.closed()
	}
	return c.Conn.Close()
}

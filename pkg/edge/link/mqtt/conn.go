package mqtt

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

const (
	// windowBytes and windowFrames are how much data may be under way in one direction of a connection,
	// which is also what is held for a reader that stalls. The latter keeps the queues of brokers, which
	// drop what exceeds a number of messages, from overflowing.
	windowBytes  = 1 << 20
	windowFrames = 32
	// sendBuffer is what Write takes before it blocks, in bytes. What is written while other data is
	// under way leaves in larger frames.
	sendBuffer = 128 << 10
	// maxInFlight is how many PUBLISH of a connection may be without their PUBACK.
	maxInFlight = 16
	// lingerTime is how long Close goes on sending what was written before.
	lingerTime = 2 * time.Second
	// progressTime is after which the other end is told of progressBytes that were read, though it need not know yet:
	// whoever waits for an answer behind them knows then that they move. Less is not worth a message.
	progressTime  = 3 * time.Second
	progressBytes = 16 << 10
	// confirmTime is after which an end that has nothing more to send, and whose last data the other end has
	// not confirmed, tells it how many frames there were.
	confirmTime = 5 * time.Second
)

var errPeerClosed = errors.New("the other end of the link closed it")

// address names an end of a connection.
type address string

func (address) Network() string  { return "mqtt" }
func (a address) String() string { return string(a) }

// publisher is what a connection sends by.
type publisher interface {
	// publish hands a payload to the broker. It blocks while the connection to it is slow.
	publish(topic string, payload []byte) token
	// name of the broker, for errors.
	name() string
}

// token tells when the broker has a payload.
type token interface {
	Done() <-chan struct{}
	Error() error
}

// conn is a net.Conn. Its frames come in by receive and leave by a goroutine, run, that is there while some do.
type conn struct {
	publisher     publisher
	topic         string // to publish to
	local, remote address
	maxPayload    int
	// reset sends a frame of its own accord, without blocking. It is called with mu held.
	reset func(f *frame)
	// gone is called once, when nothing more is sent or received.
	gone func()
	// park is Park of the server's end.
	park func(heard func([]byte), lost func(error)) (link.Parked, error)
	// wayID is the device's half of the ID of the first connection over its connection to the broker.
	wayID uint64

	pending []token // PUBLISH without PUBACK, for run

	mu                 sync.Mutex
	readable, writable sync.Cond    // for Read and Write
	spawn              func(func()) // starts run, nil before start
	running            bool         // run is at it, or the connection is over
	id                 connID
	accepted           bool // the device has the answer; the server's first frame is sent
	in                 receiveState
	out                sendState
	readDeadline       deadline
	writeDeadline      deadline
	closed             bool  // by Close
	peerClosed         bool  // by the other end
	abandoned          bool  // the other end has ended it
	err                error // what ended the connection, if not a close
	linger             *time.Timer
	entry              *entry        // the server's, until Settled
	failed             chan struct{} // closed with err set
	over               chan struct{} // closed when nothing more is sent or received
}

// receiveState is the half of a connection that receives.
type receiveState struct {
	seq           uint64   // of the frame that comes next
	queue         [][]byte // at most windowFrames, windowBytes
	size          int      // of queue, in bytes
	bytes, frames uint64   // that were read
	toldBytes     uint64   // the credit that the other end knows
	toldFrames    uint64
	told          time.Time // when it was told
}

// sendState is the half of a connection that sends.
type sendState struct {
	seq           uint64 // of the frame sent last
	buffer        []byte
	bytes, frames uint64 // that were sent
	limitBytes    uint64 // the credit that the other end gave
	limitFrames   uint64
	firstLimit    uint64    // limitFrames when nothing was read yet
	taken         time.Time // when the credit last grew
	maxPayload    int       // of the other end

	confirm    *time.Timer // there is data that may be lost
	confirmSeq uint64      // of the last frame when it was set
	doubt      bool        // the other end is to be told
}

func newConn(p publisher, topic string, maxPayload int, id connID) *conn {
	c := &conn{
		publisher: p, topic: topic, maxPayload: maxPayload, id: id,
		in:     receiveState{seq: 1},
		failed: make(chan struct{}),
		over:   make(chan struct{}),
	}
	c.readable.L, c.writable.L = &c.mu, &c.mu
	return c
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.readDeadline.passed():
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case len(c.in.queue) > 0:
			n := c.in.read(p)
			if c.in.creditDue() {
				c.wake()
			}
			return n, nil
		case c.err != nil:
			return 0, c.opError("read", c.err)
		case c.peerClosed:
			return 0, io.EOF
		}
		c.readable.Wait()
	}
}

// read takes bytes out of the queue, which is not empty.
func (in *receiveState) read(p []byte) int {
	n := 0
	for len(in.queue) > 0 && n < len(p) {
		first := in.queue[0]
		m := copy(p[n:], first)
		n += m
		if m < len(first) {
			in.queue[0] = first[m:]
			break
		}
		in.queue[0] = nil
		in.queue = in.queue[1:]
		in.frames++
	}
	in.size -= n
	in.bytes += uint64(n)
	return n
}

// creditDue tells whether the other end should be told that it may go on, or that a slow link makes progress.
func (in *receiveState) creditDue() bool {
	bytes, frames := in.bytes+windowBytes-in.toldBytes, in.frames+windowFrames-in.toldFrames
	return bytes >= windowBytes/4 || frames >= windowFrames/4 || bytes >= progressBytes && time.Since(in.told) >= progressTime
}

// Write implements net.Conn. It returns when everything is in the send buffer.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for {
		switch {
		case c.closed:
			return n, c.opError("write", net.ErrClosed)
		case c.err != nil:
			return n, c.opError("write", c.err)
		case c.peerClosed:
			return n, c.opError("write", errPeerClosed)
		case c.writeDeadline.passed():
			return n, c.opError("write", os.ErrDeadlineExceeded)
		}
		m := min(sendBuffer-len(c.out.buffer), len(p)-n)
		if m > 0 {
			c.out.buffer = append(c.out.buffer, p[n:n+m]...)
			n += m
			c.wake()
		}
		if n == len(p) {
			return n, nil
		}
		c.writable.Wait()
	}
}

// Close implements net.Conn. What was written before is still sent, for a moment.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.in.queue, c.in.size = nil, 0
	c.readDeadline.stop()
	c.writeDeadline.stop()
	if c.err == nil && !c.peerClosed {
		c.linger = time.AfterFunc(lingerTime, func() { c.fail(net.ErrClosed) })
	}
	c.broadcast()
	return nil
}

// fail ends the connection with an error, without a word to the other end.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.abandoned = c.abandoned || !c.closed
	c.out.buffer = nil
	if c.out.confirm != nil {
		c.out.confirm.Stop()
		c.out.confirm = nil
	}
	close(c.failed)
	c.broadcast()
}

func (c *conn) broadcast() {
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.wake()
}

// LastTaken implements link.Taker.
func (c *conn) LastTaken() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.taken
}

// Settled implements link.Settler.
func (c *conn) Settled() {
	c.mu.Lock()
	e := c.entry
	c.entry = nil
	c.mu.Unlock()
	e.leave()
}

// Park implements link.Parker, at the server's end.
func (c *conn) Park(heard func([]byte), lost func(error)) (link.Parked, error) {
	if c.park == nil {
		return nil, errors.ErrUnsupported
	}
	p, err := c.park(heard, lost)
	if err != nil {
		return nil, err
	}
	// Had the device been lost before, what is parked would not be told any more: Broker.gone tells the connection
	// first.
	if err := c.lost(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// lost says why the other end is not there any more, nil if it is.
func (c *conn) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.peerClosed {
		return errPeerClosed
	}
	return c.err
}

// isAbandoned says whether it is the other end that has ended the connection.
func (c *conn) isAbandoned() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.abandoned
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn. It names the broker and the topic.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readDeadline, &c.readable, t)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeDeadline, &c.writable, t)
}

func (c *conn) setDeadline(d *deadline, waiting *sync.Cond, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	d.set(t, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		waiting.Broadcast()
	})
	waiting.Broadcast()
	return nil
}

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "mqtt", Source: c.local, Addr: c.remote, Err: err}
}

// deadline is a point in time at which waiters are woken up.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(t time.Time, wake func()) {
	d.stop()
	d.at = t
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, wake)
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// brokerLost is the error of connections whose broker is gone. It does not wrap what ended the broker's own
// connection: io.EOF would look as if the other end of ours had closed it in good order.
func brokerLost(name string, err error) error {
	return fmt.Errorf("the connection to the MQTT broker %s is down: %v", name, err) //nolint:errorlint // on purpose
}

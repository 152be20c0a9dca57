package mqtt

import (
	"errors"
	"fmt"
	"net"
)

// run sends frames until the connection is over. It is the connection's only goroutine.
func (c *conn) run() {
	defer close(c.over)
	defer c.gone()
	var pending []token
	for {
		payload, last := c.next()
		if payload == nil {
			return
		}
		for len(pending) >= maxInFlight || last && len(pending) > 0 {
			if !c.await(pending[0]) {
				return
			}
			pending = pending[1:]
		}
		sent := c.publisher.publish(c.topic, payload)
		if last {
			c.await(sent)
			c.finish()
			return
		}
		pending = append(pending, sent)
		for len(pending) > 0 && isDone(pending[0]) {
			if !c.await(pending[0]) {
				return
			}
			pending = pending[1:]
		}
	}
}

func isDone(t token) bool {
	select {
	case <-t.Done():
		return true
	default:
		return false
	}
}

// await waits for the broker to have a payload.
func (c *conn) await(t token) bool {
	select {
	case <-t.Done():
	case <-c.failed:
		return false
	}
	if err := t.Error(); err != nil {
		c.fail(brokerLost(c.publisher.name(), err))
		return false
	}
	return true
}

// finish stops the timer of Close.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.linger != nil {
		c.linger.Stop()
	}
	c.failLocked(net.ErrClosed)
}

// next waits until there is something to send and encodes it. The payload is nil when the connection is
// over, and last is set when it will be over with this frame.
func (c *conn) next() (payload []byte, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.err != nil:
			if c.linger != nil {
				c.linger.Stop()
			}
			return nil, false
		case c.peerClosed && c.closed:
			c.failLocked(net.ErrClosed)
			continue
		case c.peerClosed:
			c.out.buffer = nil
		case !c.accepted:
			c.accepted = true
			return c.encode(&frame{kind: frameAccept, maxPayload: uint64(c.maxPayload)}), false
		case len(c.out.buffer) > 0 && c.out.bytes < c.out.limitBytes && c.out.frames < c.out.limitFrames:
			return c.nextData(), false
		case len(c.out.buffer) == 0 && c.closed:
			return c.encodeNumbered(&frame{kind: frameClose}), true
		case c.in.creditDue():
			return c.encodeNumbered(&frame{kind: frameCredit}), false
		}
		c.ready.Wait()
	}
}

// nextData takes a frame's worth out of the send buffer.
func (c *conn) nextData() []byte {
	limit := min(uint64(min(c.maxPayload, c.out.maxPayload)-headerRoom), c.out.limitBytes-c.out.bytes)
	n := int(min(uint64(len(c.out.buffer)), limit))
	payload := c.encodeNumbered(&frame{kind: frameData, data: c.out.buffer[:n]})
	c.out.buffer = c.out.buffer[:copy(c.out.buffer, c.out.buffer[n:])]
	if cap(c.out.buffer) > idleBuffer && len(c.out.buffer) == 0 {
		c.out.buffer = nil // an idle link should not hold it
	}
	c.out.bytes += uint64(n)
	c.out.frames++
	c.writable.Broadcast()
	return payload
}

// idleBuffer is how much of an empty send buffer may be kept, in bytes.
const idleBuffer = 4 << 10

func (c *conn) encodeNumbered(f *frame) []byte {
	c.out.seq++
	f.seq = c.out.seq
	return c.encode(f)
}

// encode adds the ID and the credit.
func (c *conn) encode(f *frame) []byte {
	f.id = c.id
	c.in.toldBytes, c.in.toldFrames = c.in.bytes+windowBytes, c.in.frames+windowFrames
	f.creditBytes, f.creditFrames = c.in.toldBytes, c.in.toldFrames
	return f.appendTo(make([]byte, 0, headerRoom+len(f.data)))
}

// receive takes a frame of this connection that came in. It never blocks. The frame's data is kept.
func (c *conn) receive(f *frame, s *counters) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.peerClosed {
		return
	}
	switch f.kind {
	case frameReset:
		c.failLocked(fmt.Errorf("the other end reset the link: %s", f.reason()))
		return
	case frameGone:
		c.failLocked(errPeerGone)
		return
	case frameData, frameCredit, frameClose:
	default:
		s.foreign.Add(1)
		return
	}
	switch {
	case f.seq < c.in.seq:
		s.duplicates.Add(1)
		return
	case f.seq > c.in.seq:
		s.gaps.Add(1)
		c.resetLocked(fmt.Errorf("frame %d is missing: the broker lost it, perhaps because its queue was full", c.in.seq))
		return
	}
	c.in.seq++
	c.grant(f.creditBytes, f.creditFrames)
	switch f.kind {
	case frameData:
		c.receiveData(f.data)
	case frameClose:
		c.peerClosed = true
		c.broadcast()
	}
}

// grant takes over credit. It only grows, whatever is claimed.
func (c *conn) grant(bytes, frames uint64) {
	c.out.limitBytes = max(c.out.limitBytes, bytes)
	c.out.limitFrames = max(c.out.limitFrames, frames)
	c.ready.Signal()
}

func (c *conn) receiveData(data []byte) {
	if c.closed {
		// Nobody reads. The other end learns of it by the close frame.
		c.in.bytes += uint64(len(data))
		c.in.frames++
		return
	}
	if c.in.size+len(data) > windowBytes || len(c.in.queue) >= windowFrames {
		c.resetLocked(errors.New("more was sent than the receiver allows"))
		return
	}
	c.in.queue = append(c.in.queue, data)
	c.in.size += len(data)
	c.readable.Broadcast()
}

// resetLocked ends the connection and tells the other end why.
func (c *conn) resetLocked(err error) {
	c.reset(resetFrame(c.id, err.Error()))
	c.failLocked(err)
}

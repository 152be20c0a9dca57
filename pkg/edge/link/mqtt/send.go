package mqtt

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// start lets frames be sent. Spawn starts goroutines.
func (c *conn) start(spawn func(func())) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spawn = spawn
	c.wake()
}

// wake has run started if there is something to do for it, and it is not at it. It is called with mu held.
// A connection at rest has no goroutine: a server would hold thousands of stacks.
func (c *conn) wake() {
	if c.spawn != nil && !c.running && c.todo() != nothing {
		c.running = true
		c.spawn(c.run)
	}
}

// run sends what there is to send. The one that finds the connection over is the last.
func (c *conn) run() {
	if c.sendAll() {
		c.gone()
		close(c.over)
	}
}

// sendAll sends until there is nothing more to send, or the connection is over.
func (c *conn) sendAll() (over bool) {
	for {
		payload, what := c.next()
		switch what {
		case nothing:
			return false
		case theEnd:
			return true
		}
		last := what == sendClose
		for len(c.pending) >= maxInFlight || last && len(c.pending) > 0 {
			if !c.await(c.pending[0]) {
				return true
			}
			c.pending = c.pending[1:]
		}
		sent := c.publisher.publish(c.topic, payload)
		if last {
			c.await(sent)
			c.finish()
			return true
		}
		c.pending = append(c.pending, sent)
		for len(c.pending) > 0 && isDone(c.pending[0]) {
			if !c.await(c.pending[0]) {
				return true
			}
			c.pending = c.pending[1:]
		}
	}
}

func isDone(t token) bool { return isClosed(t.Done()) }

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
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

// action is what there is to do for run.
type action int

const (
	nothing action = iota
	theEnd         // of the connection: no frame is sent any more
	sendAccept
	sendData
	sendCredit
	sendClose // the last frame
)

// todo is what comes next. It is called with mu held.
func (c *conn) todo() action {
	switch {
	case c.err != nil, c.peerClosed && c.closed:
		return theEnd
	case c.peerClosed:
		return nothing
	case !c.accepted:
		return sendAccept
	case len(c.out.buffer) > 0 && c.out.bytes < c.out.limitBytes && c.out.frames < c.out.limitFrames:
		return sendData
	case len(c.out.buffer) == 0 && c.closed:
		return sendClose
	case c.in.creditDue(), c.out.doubt:
		return sendCredit
	}
	return nothing
}

// next encodes the frame that is to be sent next. With nothing to do, it notes that run is over for now.
func (c *conn) next() (payload []byte, what action) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what = c.todo()
	switch what {
	case nothing:
		c.running = false
	case theEnd:
		if c.linger != nil {
			c.linger.Stop()
		}
		c.failLocked(net.ErrClosed) // if it has not failed
	case sendAccept:
		c.accepted = true
		payload = c.encode(&frame{kind: frameAccept, maxPayload: uint64(c.maxPayload)})
	case sendData:
		payload = c.nextData()
	case sendCredit:
		payload = c.encodeNumbered(&frame{kind: frameCredit})
	case sendClose:
		payload = c.encodeNumbered(&frame{kind: frameClose})
	}
	return payload, what
}

// nextData takes a frame's worth out of the send buffer.
func (c *conn) nextData() []byte {
	limit := min(uint64(min(c.maxPayload, c.out.maxPayload)-headerRoom), c.out.limitBytes-c.out.bytes)
	n := int(min(uint64(len(c.out.buffer)), limit))
	payload := c.encodeNumbered(&frame{kind: frameData, data: c.out.buffer[:n]})
	c.out.buffer = c.out.buffer[:copy(c.out.buffer, c.out.buffer[n:])]
	if len(c.out.buffer) == 0 {
		c.out.buffer = nil // an idle link should not hold it
	}
	c.out.bytes += uint64(n)
	c.out.frames++
	if c.out.confirm == nil {
		c.out.confirm, c.out.confirmSeq = time.AfterFunc(confirmTime, c.confirm), c.out.seq
	}
	c.writable.Broadcast()
	return payload
}

// confirm looks after the last data. Had the broker lost it, the other end would not notice before it gets
// the next frame, and might wait for what was sent already. A frame of credit has a number, too.
func (c *conn) confirm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch out := &c.out; {
	case out.confirm == nil: // it is over
	case out.limitFrames-out.firstLimit >= out.frames || c.peerClosed:
		out.confirm = nil
	case out.seq != out.confirmSeq:
		out.confirmSeq = out.seq
		out.confirm.Reset(confirmTime)
	default:
		out.confirm, out.doubt = nil, true
		c.wake()
	}
}

// begin takes over what the other end allows at first.
func (out *sendState) begin(f *frame) {
	out.limitBytes, out.limitFrames, out.firstLimit = f.creditBytes, f.creditFrames, f.creditFrames
	out.maxPayload = int(min(f.maxPayload, maxPayload))
}

func (c *conn) encodeNumbered(f *frame) []byte {
	c.out.seq++
	c.out.doubt = false
	f.seq = c.out.seq
	return c.encode(f)
}

// encode adds the ID and the credit.
func (c *conn) encode(f *frame) []byte {
	f.id = c.id
	c.in.toldBytes, c.in.toldFrames, c.in.told = c.in.bytes+windowBytes, c.in.frames+windowFrames, time.Now()
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
		c.resetLocked(fmt.Errorf("frame %d is missing: the broker lost it; perhaps its queue was full, or it allows no message that large (mqtt.maxPayload)", c.in.seq))
		return
	}
	c.in.seq++
	c.grant(f.creditBytes, f.creditFrames)
	switch f.kind {
	case frameData:
		c.receiveData(f.data)
	case frameClose:
		c.peerClosed, c.abandoned = true, c.abandoned || !c.closed
		c.out.buffer = nil
		c.broadcast()
	}
}

// grant takes over credit. It only grows, whatever is claimed.
func (c *conn) grant(bytes, frames uint64) {
	if bytes > c.out.limitBytes {
		c.out.taken = time.Now()
	}
	c.out.limitBytes = max(c.out.limitBytes, bytes)
	c.out.limitFrames = max(c.out.limitFrames, frames)
	c.wake()
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

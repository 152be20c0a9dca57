package mqtt

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"arhat.dev/aranya/pkg/edge/link"
)

const (
	// maxNotes is how many notes to devices may wait to be sent.
	maxNotes = maxWaiting
	// noteRate is how many notes are sent in a second, after the first noteBurst: each device answers, and a
	// broker drops what is queued for a client beyond a number of messages.
	noteRate  = 500
	noteBurst = maxEntering
)

// parked is what the server keeps of a device whose connection is closed. It is a user of its message
// namespace.
type parked struct {
	broker           *Broker
	messageNamespace string
	key              connKey
	down             string
	heard            func([]byte)
	lost             func(error)
	waiting          *frame // the note that is in the queue, guarded by noteQueue.mu
}

var _ link.Parked = &parked{}

// park takes note of a device. A former one of the same connection to the broker is over.
func (b *Broker) park(p *parked) (link.Parked, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, brokerLost(b.config.Server, errClosed)
	}
	if b.parked[p.key] == nil {
		b.users[p.messageNamespace]++
	}
	b.parked[p.key] = p
	return p, nil
}

// heard takes a note of a device.
func (b *Broker) heard(topic string, f *frame) {
	b.mu.RLock()
	p := b.parked[connKey{topic, f.id.device}]
	b.mu.RUnlock()
	if p == nil {
		b.foreign(topic, f)
		return
	}
	p.heard(f.data)
}

// Note implements link.Parked.
func (p *parked) Note(note []byte) {
	b := p.broker
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return
	}
	f := &frame{kind: frameNote, id: connID{device: p.key.device, server: b.serverID}, data: note}
	sender, ok := b.notes.put(p, f)
	if !ok {
		b.client.counters.dropped.Add(1)
	}
	if sender {
		b.work.Go(b.sendNotes)
	}
}

// Dial implements link.Parked.
func (p *parked) Dial(context.Context) (*link.Conn, error) { return nil, errors.ErrUnsupported }

// Close implements link.Parked.
func (p *parked) Close() { p.forget() }

func (p *parked) forget() (known bool) {
	b := p.broker
	b.mu.Lock()
	known = b.parked[p.key] == p
	if known {
		delete(b.parked, p.key)
	}
	b.mu.Unlock()
	if known {
		b.release(p.messageNamespace)
	}
	return known
}

// lose says that touch with the device is lost, unless nobody cares any more.
func (p *parked) lose(err error) {
	if p.forget() {
		p.lost(err)
	}
}

// noteQueue holds devices to which a note waits to be sent: one each, for those that did not answer yet are sent
// another again and again. The zero value is ready for use.
type noteQueue struct {
	mu      sync.Mutex
	queue   []*parked
	sending bool
	limiter *rate.Limiter
}

// put has a note take the place of one that waits, or the last place in the queue. It says whether there was room, and
// whether somebody has to send now.
func (q *noteQueue) put(p *parked, note *frame) (sender, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.waiting != nil {
		p.waiting = note
		return false, true
	}
	if len(q.queue) >= maxNotes {
		return false, false
	}
	if q.limiter == nil {
		q.limiter = rate.NewLimiter(noteRate, noteBurst)
	}
	q.queue, p.waiting = append(q.queue, p), note
	sender = !q.sending
	q.sending = true
	return sender, true
}

// next returns a note, and how long to wait before it is sent; false ends the sending.
func (q *noteQueue) next() (a answer, wait time.Duration, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		q.queue, q.sending = nil, false
		return answer{}, 0, false
	}
	p := q.queue[0]
	a = answer{p.down, p.waiting}
	q.queue[0], q.queue, p.waiting = nil, q.queue[1:], nil
	return a, q.limiter.Reserve().Delay(), true
}

// sendNotes sends notes until none is left, or the broker is lost.
func (b *Broker) sendNotes() {
	for {
		a, wait, ok := b.notes.next()
		if !ok {
			return
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-b.client.done:
				timer.Stop()
			}
		}
		b.client.publish(a.topic, a.frame.appendTo(nil)) // fails at once if the broker is lost
	}
}

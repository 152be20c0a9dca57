package mqtt

import (
	"container/list"
	"sync"
	"time"
)

const (
	// maxEntering is how many devices may be on their way in at a time. The handshakes that they do keep a few
	// frames of each under way, and a broker drops what is queued for a client beyond a number of messages,
	// 1000 with the defaults of Mosquitto: the server's client is one for all devices.
	maxEntering = 128
	// enteringTime is after which a device that is not in yet does not count any more: a slow one must not
	// hold up the others.
	enteringTime = 2 * time.Second
	// maxWaiting is how many devices may wait to be let in. Others are not heard, and ask again.
	maxWaiting = 1 << 15
	// waitingTime is how long a device may wait that does not ask again: it is gone.
	waitingTime = 3 * waitInterval
)

// request is that of a device for a connection.
type request struct {
	listener *listener
	up, down string // topics
	frame    frame  // open
	asked    time.Time
}

// entrance lets devices in, a few at a time, in the order in which they came. They come all at once when a
// server starts anew.
type entrance struct {
	// letIn makes a connection, and says whether it did. It may be called by several goroutines at a time.
	letIn func(r *request, e *entry) bool

	mu       sync.Mutex
	closed   bool
	entering map[string]*entry        // by the topic that the device sends to
	waiting  map[string]*list.Element // likewise
	queue    list.List                // of *request
}

// entry is the way in of one device.
type entry struct {
	entrance *entrance
	topic    string
	timer    *time.Timer
}

func newEntrance(letIn func(*request, *entry) bool) *entrance {
	return &entrance{letIn: letIn, entering: map[string]*entry{}, waiting: map[string]*list.Element{}}
}

// ask lets a device in at once, or says that it has to wait. One that asks again keeps its place, and is let
// in with what it said last.
func (e *entrance) ask(r *request) (waits bool) {
	r.asked = time.Now()
	entry, waits := e.admit(r)
	if entry != nil && !e.letIn(r, entry) {
		entry.leave()
	}
	return waits
}

// admit returns the entry of a device that need not wait.
func (e *entrance) admit(r *request) (_ *entry, waits bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, false
	}
	if place := e.waiting[r.up]; place != nil {
		place.Value = r
		return nil, true
	}
	// A device that begins anew takes its own place.
	if e.entering[r.up] != nil || len(e.entering) < maxEntering {
		return e.enterLocked(r.up), false
	}
	if len(e.waiting) >= maxWaiting {
		return nil, false
	}
	e.waiting[r.up] = e.queue.PushBack(r)
	return nil, true
}

func (e *entrance) enterLocked(topic string) *entry {
	if former := e.entering[topic]; former != nil {
		former.timer.Stop()
	}
	entry := &entry{entrance: e, topic: topic}
	entry.timer = time.AfterFunc(enteringTime, entry.leave)
	e.entering[topic] = entry
	return entry
}

// leave says that a device is in, or gone, so that the next one may come. It may be called again, and for nil.
func (en *entry) leave() {
	for en != nil {
		e := en.entrance
		r, next := e.advance(en)
		if next == nil || e.letIn(r, next) {
			return
		}
		en = next
	}
}

// advance gives the place of an entry to the device that has waited longest, if there is one.
func (e *entrance) advance(en *entry) (*request, *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.entering[en.topic] != en {
		return nil, nil
	}
	en.timer.Stop()
	delete(e.entering, en.topic)
	for {
		first := e.queue.Front()
		if first == nil {
			return nil, nil
		}
		r := e.removeLocked(first)
		if time.Since(r.asked) < waitingTime {
			return r, e.enterLocked(r.up)
		}
	}
}

func (e *entrance) removeLocked(place *list.Element) *request {
	r := e.queue.Remove(place).(*request)
	delete(e.waiting, r.up)
	return r
}

// forget drops the request of a device that has left.
func (e *entrance) forget(topic string, device uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	place := e.waiting[topic]
	if place == nil {
		return
	}
	if f := &place.Value.(*request).frame; f.id.device == device || f.formerID().device == device {
		e.removeLocked(place)
	}
}

// close forgets all of them. Nobody is let in any more.
func (e *entrance) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for _, entry := range e.entering {
		entry.timer.Stop()
	}
	clear(e.entering)
	clear(e.waiting)
	e.queue.Init()
}

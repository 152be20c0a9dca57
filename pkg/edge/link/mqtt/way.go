package mqtt

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// way is a device's connection to the broker. It serves one connection of the link, and further ones if the
// device is parked in between, or if the server has ended the one before.
type way struct {
	client           *client
	keeper           *Keeper
	server           string // that the broker has
	up, down, status string // topics
	limit            int    // of payloads
	// id is the device's half of the ID of the first connection, by which the broker's will names all of them.
	id uint64

	mu      sync.Mutex
	current *device       // the last connection
	resting *deviceParked // nil unless the device is parked, or about to be
	rested  bool          // the device was parked, or is
	ignored bool          // nobody has answered the last time
}

// way returns what leads from a device to the server.
func (d Dialer) way(config BrokerConfig) *way {
	return &way{
		server: config.Server, limit: config.MaxPayload, keeper: d.Keeper, id: rand.Uint64() | 1, // never 0
		up:     upTopic(d.MessageNamespace, d.Namespace, d.Name),
		down:   downTopic(d.MessageNamespace, d.Namespace, d.Name),
		status: statusTopic(d.MessageNamespace),
	}
}

// device returns the device's end of a new connection: the first one, or one after another of this ID.
func (w *way) device(former connID) *device {
	id := w.id
	if former.device != 0 {
		id = rand.Uint64() | 1
	}
	dev := &device{
		way: w, former: former,
		answer: make(chan error, 1), wait: make(chan struct{}, 1), again: make(chan time.Duration, 1), ended: make(chan struct{}),
	}
	dev.conn = newConn(nil, w.up, w.limit, connID{device: id})
	dev.accepted = true // there is no answer to be sent
	dev.local, dev.remote = address(w.server+w.down), address(w.server+w.up)
	dev.reset = func(f *frame) { dev.last = f }
	dev.gone = func() {}
	if w.client != nil {
		dev.publisher = w.client
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = dev
	return dev
}

// use has the device send and receive by a connection to the broker.
func (w *way) use(cl *client) {
	w.client, w.current.publisher = cl, cl
	cl.start()
}

// farewell says that the device has left: all of it, or one that has asked for a connection.
func farewell(id uint64) []byte {
	return (&frame{kind: frameGone, id: connID{device: id}}).appendTo(nil)
}

// asked takes note of what asking for a connection has led to, and says whether the way is kept for the next time: once,
// if nobody answers, for then it may be the way that leads nowhere.
func (w *way) asked(err error) (kept bool) {
	w.mu.Lock()
	before := w.ignored
	w.ignored = errors.Is(err, context.DeadlineExceeded)
	again := w.ignored && !before
	w.mu.Unlock()
	return again && w.keeper.keep(w)
}

// over leaves the broker after a connection, unless the device is parked, or may connect again soon.
func (w *way) over(d *device) {
	w.mu.Lock()
	used := w.resting != nil || w.current != d
	w.mu.Unlock()
	if used || d.isAbandoned() && w.keeper.keep(w) {
		return
	}
	w.leave()
}

// leave leaves the broker, which publishes no will then. What the server may have parked is not told by the
// end of a connection.
func (w *way) leave() {
	w.mu.Lock()
	rested := w.rested
	w.mu.Unlock()
	if rested {
		w.client.await(w.client.publish(w.up, farewell(w.id)))
	}
	w.client.disconnect()
}

// receive takes a message from the broker. It must not block.
func (w *way) receive(m paho.Message) {
	s := &w.client.counters
	if m.Retained() {
		s.foreign.Add(1)
		return
	}
	f, ok := s.decode(m.Payload(), w.limit)
	if !ok {
		return
	}
	w.mu.Lock()
	dev, parked := w.current, w.resting
	w.mu.Unlock()
	switch {
	case m.Topic() != w.down:
		dev.receiveStatus(&f)
		parked.receiveStatus(&f)
	case f.kind == frameNote:
		parked.receive(&f)
	default:
		dev.receiveFrame(&f)
	}
}

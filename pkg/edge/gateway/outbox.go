package gateway

import (
	"sync"

	"google.golang.org/protobuf/proto"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	// maxQueued is how many messages may wait for a device.
	maxQueued = 1024
	// maxQueuedBytes is how large they may be together; the first one may be as large as it likes.
	maxQueuedBytes = edgeapi.MaxServerMessage
	// maxUrgent is how many messages may wait that are sent before all others.
	maxUrgent = 512
)

// outbox is the queue of messages to one device. It is shut until open is called, and after shut was. A
// goroutine exists only while there is something to send.
type outbox struct {
	fail  func(error)
	spawn func(func())
	wake  func() // there is something to send, but shut was called

	mu      sync.Mutex
	send    func(*edgeapi.ServerMessage) error // by one goroutine at a time
	idle    chan struct{}                      // not nil if shut waits for the goroutine; closed when it ends
	wasShut bool
	urgent  []*edgeapi.ServerMessage
	normal  []sized
	bytes   int
	opened  bool
	sending bool
	closed  bool
}

type sized struct {
	msg  *edgeapi.ServerMessage
	size int
}

// put queues a message without blocking.
func (o *outbox) put(msg *edgeapi.ServerMessage, urgent bool) error {
	size := proto.Size(msg)
	if size > edgeapi.MaxServerMessage {
		return ErrTooLarge
	}
	wake, err := o.queue(msg, size, urgent)
	if wake {
		o.wake()
	}
	return err
}

func (o *outbox) queue(msg *edgeapi.ServerMessage, size int, urgent bool) (wake bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return false, ErrClosed
	case urgent:
		if len(o.urgent) >= maxUrgent {
			return false, ErrBusy
		}
		o.urgent = append(o.urgent, msg)
	default:
		if len(o.normal) >= maxQueued || len(o.normal) > 0 && o.bytes+size > maxQueuedBytes {
			return false, ErrBusy
		}
		o.normal = append(o.normal, sized{msg, size})
		o.bytes += size
	}
	o.start()
	return o.wasShut, nil
}

// open begins to send.
func (o *outbox) open(send func(*edgeapi.ServerMessage) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.send = send
	o.opened, o.wasShut = true, false
	o.start()
}

// shut ends the sending after the message that is under way, and returns when that is out. What is queued from
// then on is kept.
func (o *outbox) shut() {
	o.mu.Lock()
	o.opened, o.wasShut = false, true
	if o.sending && !o.closed {
		o.idle = make(chan struct{})
	}
	idle := o.idle
	o.mu.Unlock()
	if idle != nil {
		<-idle
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.send = nil // and with it the connection
}

// waiting says whether something is queued.
func (o *outbox) waiting() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sending || len(o.urgent)+len(o.normal) > 0
}

func (o *outbox) start() {
	if o.opened && !o.sending && !o.closed && len(o.urgent)+len(o.normal) > 0 {
		o.sending = true
		o.spawn(o.drain)
	}
}

func (o *outbox) drain() {
	for {
		msg, send := o.next()
		if msg == nil {
			return
		}
		if err := send(msg); err != nil {
			o.fail(err)
			return
		}
	}
}

// next takes the next message off the queue; nil ends the sending goroutine.
func (o *outbox) next() (*edgeapi.ServerMessage, func(*edgeapi.ServerMessage) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed, !o.opened:
	case len(o.urgent) > 0:
		msg := o.urgent[0]
		o.urgent[0], o.urgent = nil, o.urgent[1:]
		return msg, o.send
	case len(o.normal) > 0:
		first := o.normal[0]
		o.normal[0], o.normal = sized{}, o.normal[1:]
		o.bytes -= first.size
		return first.msg, o.send
	default:
		o.urgent, o.normal, o.bytes = nil, nil, 0 // an idle link holds no queue
	}
	o.sending = false
	o.ended()
	return nil, nil
}

// ended lets shut return.
func (o *outbox) ended() {
	if o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

// close drops what is queued.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.ended()
	o.urgent, o.normal, o.bytes = nil, nil, 0
}

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
	maxQueuedBytes = MaxServerMessage
	// maxUrgent is how many messages may wait that are sent before all others.
	maxUrgent = 512
)

// outbox is the queue of messages to one device. It is shut until open is called. A goroutine exists
// only while there is something to send.
type outbox struct {
	send  func(*edgeapi.ServerMessage) error // by one goroutine at a time
	fail  func(error)
	spawn func(func())

	mu      sync.Mutex
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
	if size > MaxServerMessage {
		return ErrTooLarge
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return ErrClosed
	case urgent:
		if len(o.urgent) >= maxUrgent {
			return ErrBusy
		}
		o.urgent = append(o.urgent, msg)
	default:
		if len(o.normal) >= maxQueued || len(o.normal) > 0 && o.bytes+size > maxQueuedBytes {
			return ErrBusy
		}
		o.normal = append(o.normal, sized{msg, size})
		o.bytes += size
	}
	o.start()
	return nil
}

// open begins to send.
func (o *outbox) open() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opened = true
	o.start()
}

func (o *outbox) start() {
	if o.opened && !o.sending && !o.closed && len(o.urgent)+len(o.normal) > 0 {
		o.sending = true
		o.spawn(o.drain)
	}
}

func (o *outbox) drain() {
	for {
		msg := o.next()
		if msg == nil {
			return
		}
		if err := o.send(msg); err != nil {
			o.fail(err)
			return
		}
	}
}

// next takes the next message off the queue; nil ends the sending goroutine.
func (o *outbox) next() *edgeapi.ServerMessage {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
	case len(o.urgent) > 0:
		msg := o.urgent[0]
		o.urgent[0], o.urgent = nil, o.urgent[1:]
		return msg
	case len(o.normal) > 0:
		first := o.normal[0]
		o.normal[0], o.normal = sized{}, o.normal[1:]
		o.bytes -= first.size
		return first.msg
	}
	o.sending = false
	o.urgent, o.normal, o.bytes = nil, nil, 0 // an idle link holds no queue
	return nil
}

// close drops what is queued.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.urgent, o.normal, o.bytes = nil, nil, 0
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	// maxEvents is how many events wait for the link; older ones are dropped for newer.
	maxEvents = 256
	// maxRemoved is how many removals wait. What is dropped beyond that is found out from the digests
	// of the next Hello.
	maxRemoved = 4096
)

// outbox holds what waits to be sent. Of a pod's statuses and the node's only the last counts, so
// its size is bounded by the number of pods, with or without a link. Its methods may be called
// concurrently and never block.
type outbox struct {
	mu     sync.Mutex
	news   chan struct{} // has an element while there may be something to send
	node   *edgeapi.NodeStatus
	static *edgeapi.StaticPods // the last ones
	// staticDue is set if they have to be sent, staticWanted if the server wants to hear of them.
	staticDue, staticWanted bool

	statuses queue[*edgeapi.PodStatus]
	removed  queue[*edgeapi.PodRemoved]
	events   []*edgeapi.Event
	dropped  int // events that nobody was told of
}

func newOutbox() *outbox {
	return &outbox{news: make(chan struct{}, 1), statuses: newQueue[*edgeapi.PodStatus](), removed: newQueue[*edgeapi.PodRemoved]()}
}

// PodStatus replaces an earlier status of the pod that was not sent.
func (o *outbox) PodStatus(s *edgeapi.PodStatus) {
	o.change(func() { o.statuses.put(s.Uid, s) })
}

// PodRemoved says that a pod is gone; its statuses do not matter any more.
func (o *outbox) PodRemoved(r *edgeapi.PodRemoved) {
	o.change(func() {
		o.statuses.remove(r.Uid)
		o.removed.put(r.Uid, r)
		if o.removed.len() > maxRemoved {
			o.removed.take()
		}
	})
}

// Event queues an event.
func (o *outbox) Event(e *edgeapi.Event) {
	o.change(func() {
		if len(o.events) == maxEvents {
			o.events = append(o.events[:0], o.events[1:]...)
			o.dropped++
		}
		o.events = append(o.events, e)
	})
}

// NodeStatus replaces an earlier status of the node that was not sent.
func (o *outbox) NodeStatus(s *edgeapi.NodeStatus) {
	o.change(func() { o.node = s })
}

// StaticPods replaces those before.
func (o *outbox) StaticPods(s *edgeapi.StaticPods) {
	o.change(func() {
		o.staticDue = o.staticDue || !proto.Equal(o.static, s)
		o.static = s
	})
}

// wantStatic says at the beginning of a link whether the server wants to hear of static pods.
func (o *outbox) wantStatic(wanted bool) {
	o.change(func() { o.staticWanted, o.staticDue = wanted, true })
}

// dropNodeStatus is for when a newer one has gone another way.
func (o *outbox) dropNodeStatus() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.node = nil
}

func (o *outbox) change(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
	o.wake()
}

func (o *outbox) wake() {
	select {
	case o.news <- struct{}{}:
	default:
	}
}

// drain sends until ctx ends or the link is down. What could not be sent is kept, unless it is out of
// date by then, or is itself what cannot be sent.
func (o *outbox) drain(ctx context.Context, send uplink.Sender) {
	logger := klog.FromContext(ctx)
	if n := o.takeDropped(); n > 0 {
		logger.Info("The oldest events were dropped: too many waited for the link", "dropped", n, "kept", maxEvents)
	}
	for {
		message, restore := o.next()
		if message == nil {
			select {
			case <-o.news:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := send.Send(ctx, message)
		if errors.Is(err, uplink.ErrMessage) {
			o.giveUp(logger, message, err)
			continue
		}
		if err != nil {
			restore()
			logger.V(4).Info("A message waits for the next connection", "err", err)
			return
		}
	}
}

// takeDropped tells once how many events were dropped.
func (o *outbox) takeDropped() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.dropped
	o.dropped = 0
	return n
}

// giveUp drops a message that cannot be sent, so that it does not hold up the others, and tells of it.
func (o *outbox) giveUp(logger klog.Logger, message *edgeapi.DeviceMessage, err error) {
	switch m := message.Message.(type) {
	case *edgeapi.DeviceMessage_PodStatus:
		logger.Error(err, "The cloud is not told of a pod's status", "podUID", m.PodStatus.Uid)
		o.Event(&edgeapi.Event{
			PodUid: m.PodStatus.Uid, Type: v1.EventTypeWarning, Reason: "FailedStatusUpdate", TimeMs: time.Now().UnixMilli(),
			Message: "the device cannot report the status of the pod: " + err.Error(),
		})
	case *edgeapi.DeviceMessage_PodRemoved:
		logger.Error(err, "The cloud is not told of a removed pod's last status", "podUID", m.PodRemoved.Uid, "pod", klog.KRef(m.PodRemoved.Namespace, m.PodRemoved.Name))
		if m.PodRemoved.Status != nil { // it must learn at least that the pod is gone
			o.PodRemoved(&edgeapi.PodRemoved{Uid: m.PodRemoved.Uid, Namespace: m.PodRemoved.Namespace, Name: m.PodRemoved.Name})
		}
	default:
		logger.Error(err, "A message to the cloud was dropped", "kind", fmt.Sprintf("%T", m), "podUID", message.GetEvent().GetPodUid())
	}
}

// next takes the most important message: the node before its pods, what is before what was.
func (o *outbox) next() (message *edgeapi.DeviceMessage, restore func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.node; s != nil {
		o.node = nil
		return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_NodeStatus{NodeStatus: s}}, o.restorer(func() {
			if o.node == nil {
				o.node = s
			}
		})
	}
	if s := o.static; s != nil && o.staticDue && o.staticWanted {
		o.staticDue = false
		return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_StaticPods{StaticPods: s}}, o.restorer(func() { o.staticDue = true })
	}
	if s, ok := o.statuses.take(); ok {
		return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_PodStatus{PodStatus: s}}, o.restorer(func() {
			if !o.removed.has(s.Uid) {
				o.statuses.restore(s.Uid, s)
			}
		})
	}
	if r, ok := o.removed.take(); ok {
		return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_PodRemoved{PodRemoved: r}}, o.restorer(func() { o.removed.restore(r.Uid, r) })
	}
	if len(o.events) > 0 {
		e := o.events[0]
		o.events = o.events[1:]
		return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{Event: e}}, o.restorer(func() {
			if len(o.events) == maxEvents {
				o.dropped++
				return
			}
			o.events = append([]*edgeapi.Event{e}, o.events...)
		})
	}
	return nil, nil
}

func (o *outbox) restorer(f func()) func() { return func() { o.change(f) } }

// queue is a FIFO of the latest value for each key.
type queue[T any] struct {
	order  []string
	values map[string]T
}

func newQueue[T any]() queue[T] { return queue[T]{values: map[string]T{}} }

func (q *queue[T]) len() int { return len(q.values) }

func (q *queue[T]) has(key string) bool {
	_, ok := q.values[key]
	return ok
}

// put replaces the value of a key, which keeps its place.
func (q *queue[T]) put(key string, value T) {
	if !q.has(key) {
		q.order = append(q.order, key)
	}
	q.values[key] = value
}

// restore puts a value back to the front, unless there is a newer one.
func (q *queue[T]) restore(key string, value T) {
	if !q.has(key) {
		q.order = append([]string{key}, q.order...)
		q.values[key] = value
	}
}

func (q *queue[T]) remove(key string) {
	if !q.has(key) {
		return
	}
	delete(q.values, key)
	for i, k := range q.order {
		if k == key {
			q.order = append(q.order[:i], q.order[i+1:]...)
			return
		}
	}
}

func (q *queue[T]) take() (value T, ok bool) {
	if len(q.order) == 0 {
		return value, false
	}
	key := q.order[0]
	q.order = q.order[1:]
	value = q.values[key]
	delete(q.values, key)
	return value, true
}

package uplink

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/note"
)

// maxHeard is how many notes may wait to be read. More are not of use: each asks for the same.
const maxHeard = 4

// parked is a link that is at rest without a connection.
type parked struct {
	id   uint64 // by which the server knows it
	link link.Parked
	seal *note.Sealer
	open *note.Opener

	notes chan []byte
	lost  chan error // holds one
}

func (p *parked) heard(n []byte) {
	select {
	case p.notes <- n:
	default:
	}
}

// answerPark tells the server whether the link can be parked. If so, it was the last message over this connection.
func (t *control) answerPark(a *attachment, id uint64) (parked bool) {
	if !t.park(a, id) {
		return t.sendOne(a, parkedMessage(true)) != nil
	}
	if t.sendOne(a, parkedMessage(false)) == nil {
		_ = a.call.CloseSend()
	}
	return true
}

func parkedMessage(busy bool) *edgeapi.DeviceMessage {
	return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Parked{Parked: &edgeapi.Parked{Busy: busy}}}
}

// park prepares for the end of the connection, unless it is in use.
func (t *control) park(a *attachment, id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.conn.keys == nil || t.users > 0 || a.streams.busy() {
		return false
	}
	p := &parked{id: id, notes: make(chan []byte, maxHeard), lost: make(chan error, 1)}
	p.seal, p.open = a.conn.keys.Device()
	var err error
	if p.link, err = a.conn.raw.Park(p.heard, func(err error) { p.lost <- err }); err != nil {
		klog.FromContext(t.ctx).Error(err, "The link cannot be parked")
		return false
	}
	a.parked, t.attached = p, make(chan struct{})
	return true
}

func (t *control) isParked(a *attachment) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return a.parked != nil
}

// busy tells whether a stream is open.
func (t *control) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.on != nil && t.on.streams.busy()
}

// open opens a stream, over the next connection if this one is about to end.
func (t *control) open(a *attachment, req *edgeapi.OpenStream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case a.parked == nil:
		a.streams.serve(t.ctx, req)
	case len(a.deferred) < t.client.config.MaxStreams:
		a.deferred = append(a.deferred, req)
		latest(t.wanted, struct{}{})
	}
}

// awake returns the connection, after a parked link was resumed. It is not parked before release is called.
func (t *control) awake() (conn *connection, release func(), err error) {
	for {
		t.mu.Lock()
		if a := t.on; a != nil && a.parked == nil {
			t.users++
			t.mu.Unlock()
			return a.conn, t.release, nil
		}
		attached := t.attached
		latest(t.wanted, struct{}{})
		t.mu.Unlock()
		select {
		case <-attached:
		case <-t.ctx.Done():
			return nil, nil, context.Cause(t.ctx)
		}
	}
}

func (t *control) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users--
}

// rest keeps in touch with the server without a connection until there is something to say or to hear, or the
// link is down, for which it returns nil.
func (t *control) rest(former *attachment) *attachment {
	p := former.parked
	var first *outgoing
	for resume := false; !resume; {
		select {
		case <-t.ctx.Done():
			p.link.Close()
			return nil
		case err := <-p.lost:
			p.link.Close()
			t.cancel(err)
			return nil
		case n := <-p.notes:
			resume = t.read(former.conn, p, n)
		case out := <-t.outgoing:
			first, resume = &out, true
		case <-t.wanted:
			resume = true
		}
	}
	a, err := t.resume(p)
	if err != nil {
		if first != nil {
			first.done <- errLinkDown
		}
		t.cancel(err)
		return nil
	}
	a.first = first
	t.begin(a)
	for _, req := range former.deferred {
		t.open(a, req)
	}
	return a
}

// read reads a note, answers a ping, and says whether the link is to be resumed.
func (t *control) read(conn *connection, p *parked, n []byte) (resume bool) {
	var msg edgeapi.ServerMessage
	data, err := p.open.Open(n)
	if err == nil {
		err = proto.Unmarshal(data, &msg)
	}
	if err != nil {
		klog.FromContext(t.ctx).V(2).Info("Ignoring a note", "reason", err.Error())
		return false
	}
	var answer []byte
	if ping := msg.GetPing(); ping != nil {
		if data, err = proto.Marshal(t.pong(ping.GetId())); err == nil {
			answer = p.seal.Seal(data)
			p.link.Note(answer)
		}
	}
	conn.traffic.Noted(len(n), len(answer))
	conn.raw.Noted(len(n), len(answer))
	return answer == nil
}

// resume makes the next connection of a parked link.
func (t *control) resume(p *parked) (*attachment, error) {
	c := t.client
	conn, err := connect(t.ctx, p.link.Dial, c.server, c.id.Load().tls(), c.ledger)
	if err != nil {
		return nil, fmt.Errorf("resuming the parked link: %w", err)
	}
	resume := &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Resume{Resume: &edgeapi.Resume{Id: p.id}}}
	a, welcome, err := c.attach(t.ctx, conn, resume)
	if err != nil {
		conn.close()
		return nil, fmt.Errorf("resuming the parked link: %w", err)
	}
	t.welcome(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Welcome{Welcome: welcome}})
	return a, nil
}

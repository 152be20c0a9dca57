package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"arhat.dev/aranya/pkg/edge/link"
)

var (
	errNotKnown  = errors.New("the server does not know of the parked device, perhaps because it started anew")
	errLostTouch = errors.New("touch with the server was lost just now")
)

// deviceParked is the device's end of a link without a connection. nil stands for one that is not parked.
type deviceParked struct {
	way    *way
	server uint64 // the server's half of the ID of the connection before
	heard  func([]byte)
	lost   func(error)

	closing sync.Once
	losing  sync.Once     // lost is called, or will not be
	over    chan struct{} // closed then
}

var _ link.Parked = &deviceParked{}

// Park implements link.Parker. It takes the place of that of conn.
func (d *device) Park(heard func([]byte), lost func(error)) (link.Parked, error) {
	d.mu.Lock()
	server := d.id.server
	d.mu.Unlock()
	p := &deviceParked{way: d.way, server: server, heard: heard, lost: lost, over: make(chan struct{})}
	w := d.way
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.resting != nil || w.current != d {
		return nil, errors.New("the connection is parked already")
	}
	w.resting, w.rested = p, true
	go p.watch()
	return p, nil
}

// watch notices that the broker is lost.
func (p *deviceParked) watch() {
	select {
	case <-p.way.client.done:
		p.lose(p.way.client.lost())
	case <-p.over:
	}
}

// lose says that touch with the server is lost, unless it was given up.
func (p *deviceParked) lose(err error) {
	p.losing.Do(func() {
		close(p.over)
		p.lost(err)
	})
}

// end lets lost not be called any more, and says whether it was not before.
func (p *deviceParked) end() (inTouch bool) {
	p.losing.Do(func() {
		close(p.over)
		inTouch = true
	})
	return inTouch
}

// receive takes a note.
func (p *deviceParked) receive(f *frame) {
	switch {
	case p == nil:
	case f.id.device != p.way.id || f.id.server != p.server:
		p.way.client.counters.foreign.Add(1)
	case len(f.data) == 0:
		p.lose(errNotKnown)
	default:
		p.heard(f.data)
	}
}

// receiveStatus takes what a server tells all devices.
func (p *deviceParked) receiveStatus(f *frame) {
	if p == nil {
		return
	}
	if err := lossOf(p.server, f); err != nil {
		p.lose(err)
	}
}

// Note implements link.Parked.
func (p *deviceParked) Note(note []byte) {
	f := &frame{kind: frameNote, id: connID{device: p.way.id, server: p.server}, data: note}
	p.way.client.publish(p.way.up, f.appendTo(nil))
}

// Dial implements link.Parked.
func (p *deviceParked) Dial(ctx context.Context) (*link.Conn, error) {
	w := p.way
	w.mu.Lock()
	former := w.current
	w.mu.Unlock()
	select {
	case <-former.ended:
	case <-ctx.Done():
		p.Close()
		return nil, ctx.Err()
	}
	dev := w.device(connID{device: w.id, server: p.server})
	w.mu.Lock()
	w.resting = nil
	w.mu.Unlock()
	err := errLostTouch
	if p.end() {
		err = dev.ask(ctx)
	}
	if err != nil {
		w.leave()
		return nil, fmt.Errorf("going on after a rest: %w", err)
	}
	go dev.serve()
	return link.NewConn(dev, link.MethodMQTT), nil
}

// Close implements link.Parked. It tells the server that the device leaves, unless it is the server that was lost. The
// way may be another connection's when it is called again.
func (p *deviceParked) Close() {
	p.closing.Do(func() {
		inTouch := p.end()
		w := p.way
		w.mu.Lock()
		w.resting = nil
		w.mu.Unlock()
		if inTouch || !w.keeper.keep(w) {
			w.leave()
		}
	})
}

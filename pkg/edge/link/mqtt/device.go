package mqtt

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// closeTime is how long Close of the device's end waits for the server to be told.
const closeTime = time.Second

var errRestarted = errors.New("the server started anew")

// serve runs the connection, and leaves the broker when it is over, unless the device is parked there.
func (d *device) serve() {
	defer close(d.ended)
	d.start(func(run func()) { go run() })
	select {
	case <-d.over:
	case <-d.way.client.done:
		d.fail(d.way.client.lost())
		<-d.over
	}
	d.mu.Lock()
	last := d.last
	d.mu.Unlock()
	if last != nil {
		d.way.client.await(d.way.client.publish(d.topic, last.appendTo(nil)))
	}
	d.way.over(d)
}

// Abandoned implements link.Abandoner.
func (d *device) Abandoned() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.abandoned = true
}

// Close implements net.Conn. It waits for a moment until the server was told.
func (d *device) Close() error {
	err := d.conn.Close()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-d.ended:
	case <-timer.C:
	}
	return err
}

// receiveFrame takes a frame that came for this device.
func (d *device) receiveFrame(f *frame) {
	s := &d.way.client.counters
	d.mu.Lock()
	server := d.id.server
	d.mu.Unlock()
	switch {
	case f.id.device != d.id.device:
		s.foreign.Add(1)
	case server == 0:
		d.receiveAnswer(f)
	case f.kind == frameAccept && f.id.server == server:
		s.duplicates.Add(1)
	case f.id.server == server:
		d.receive(f, s)
	default:
		s.foreign.Add(1)
	}
}

// receiveAnswer takes the answer to open.
func (d *device) receiveAnswer(f *frame) {
	switch f.kind {
	case frameAccept:
		d.mu.Lock()
		d.id.server = f.id.server
		d.out.begin(f)
		d.mu.Unlock()
		d.answered(nil)
	case frameWait:
		offer(d.wait, struct{}{})
	case frameReset:
		d.answered(fmt.Errorf("the server at the MQTT broker %s refuses the connection: %s", d.way.client.server, f.reason()))
	default:
		d.way.client.counters.foreign.Add(1)
	}
}

func (d *device) answered(err error) { offer(d.answer, err) }

// offer puts a value into a channel that holds one, if there is none in it.
func offer[T any](ch chan T, value T) {
	select {
	case ch <- value:
	default:
	}
}

// receiveStatus takes what a server tells all devices.
func (d *device) receiveStatus(f *frame) {
	d.mu.Lock()
	server := d.id.server
	d.mu.Unlock()
	if server != 0 {
		if err := lossOf(server, f); err != nil {
			d.fail(err)
		}
		return
	}
	if err := lossOf(d.former.server, f); err != nil {
		d.answered(err) // nobody else answers
	} else if f.kind == frameHello {
		offer(d.again, min(time.Duration(min(f.creditFrames, math.MaxInt32))*time.Millisecond, maxSpread))
	}
}

// lossOf says why a server, which is not 0, is lost to a device that was told this, nil if it is not.
func lossOf(server uint64, f *frame) error {
	switch {
	case server == 0:
	case f.kind == frameHello && f.id.server != server && f.id.server>>32 == server>>32:
		return errRestarted
	case f.kind == frameGone && f.id.server == server:
		return errPeerGone
	}
	return nil
}

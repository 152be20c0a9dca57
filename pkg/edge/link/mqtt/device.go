package mqtt

import (
	"errors"
	"fmt"
	"math"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// closeTime is how long Close of the device's end waits for the server to be told.
const closeTime = time.Second

var errRestarted = errors.New("the server started anew")

// serve runs the connection and leaves the broker when it is over.
func (d *device) serve() {
	defer close(d.ended)
	d.start(func(run func()) { go run() })
	select {
	case <-d.over:
	case <-d.client.done:
		d.fail(d.client.lost())
		<-d.over
	}
	d.mu.Lock()
	last := d.last
	d.mu.Unlock()
	if last != nil {
		d.client.await(d.client.publish(d.topic, last.appendTo(nil)))
	}
	d.client.disconnect()
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

// receiveMessage takes a message from the broker. It must not block.
func (d *device) receiveMessage(m paho.Message) {
	s := &d.client.counters
	if m.Retained() {
		s.foreign.Add(1)
		return
	}
	f, ok := s.decode(m.Payload(), d.limit)
	if !ok {
		return
	}
	d.mu.Lock()
	server := d.id.server
	d.mu.Unlock()
	switch {
	case m.Topic() != d.down:
		d.receiveStatus(&f, server)
	case f.id.device != d.id.device:
		s.foreign.Add(1)
	case server == 0:
		d.receiveAnswer(&f)
	case f.kind == frameAccept && f.id.server == server:
		s.duplicates.Add(1)
	case f.id.server == server:
		d.receive(&f, s)
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
		d.answered(fmt.Errorf("the server at the MQTT broker %s refuses the connection: %s", d.client.server, f.reason()))
	default:
		d.client.counters.foreign.Add(1)
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

// receiveStatus takes what a server tells all devices. The server is that of the connection, 0 before
// there is one.
func (d *device) receiveStatus(f *frame, server uint64) {
	switch {
	case f.kind == frameHello && server == 0:
		offer(d.again, min(time.Duration(min(f.creditFrames, math.MaxInt32))*time.Millisecond, maxSpread))
	case f.kind == frameHello && f.id.server != server && f.id.server>>32 == server>>32:
		d.fail(errRestarted)
	case f.kind == frameGone && server != 0 && f.id.server == server:
		d.fail(errPeerGone)
	}
}

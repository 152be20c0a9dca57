package gateway_test

import (
	"errors"
	"strings"
	"testing"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

func TestQueueFull(t *testing.T) {
	w := newWorld(t)
	slow := make(chan struct{})
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")), func(d *device, _ *uplink.Config) { d.slow = slow })
	receive(t, d.connected, "the device to connect")
	s := w.handler.next(t, "started").s

	other := w.run(t, w.enrol(t, w.directory.put("device-2", "uid-2")))
	receive(t, other.connected, "the other device to connect")
	s2 := w.handler.next(t, "started").s

	sent := 0
	for ; sent < 64; sent++ {
		if err := s.Send(runPod("p", 1<<20)); err != nil {
			if !errors.Is(err, gateway.ErrBusy) {
				t.Fatal(err)
			}
			break
		}
	}
	if sent < 8 || sent == 64 {
		t.Errorf("%d MiB were queued for a device that does not read", sent)
	}
	if err := s.Send(runPod("p", edgeapi.MaxServerMessage+1)); !errors.Is(err, gateway.ErrTooLarge) {
		t.Errorf("Send of a message over the limit: %v", err)
	}
	// The slow device delays nobody else, and its own pings and streams are not behind its pods.
	if err := s2.Send(deletePod("x")); err != nil {
		t.Fatal(err)
	}
	receive(t, other.messages, "the other device's message")
	close(slow)
	for range sent {
		if msg := receive(t, d.messages, "the slow device's messages"); len(msg.GetRunPod().Pod) != 1<<20 {
			t.Fatal("a message arrived damaged")
		}
	}
	if err := s.Send(runPod("big", 7<<20)); err != nil {
		t.Fatal(err)
	}
	if msg := receive(t, d.messages, "a large message"); len(msg.GetRunPod().Pod) != 7<<20 {
		t.Error("the large message arrived damaged")
	}
}

func TestManySmallQueued(t *testing.T) {
	w := newWorld(t)
	slow := make(chan struct{})
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")), func(d *device, _ *uplink.Config) { d.slow = slow })
	receive(t, d.connected, "the device to connect")
	s := w.handler.next(t, "started").s
	// Small enough for their number to count, and not their size.
	n := 0
	for ; n < 1<<20 && s.Send(runPod("p", 4<<10)) == nil; n++ {
	}
	if n < 1024 || n > 1024+1024 {
		t.Errorf("%d messages were queued", n)
	}
	close(slow)
}

// A handler that is busy with one device does not delay another.
func TestHandlerPerDevice(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, func(c *gateway.Config) {
		c.Handler.(*recorder).block = func(d gateway.Device) {
			if d.Name == "device-1" {
				<-gate
			}
		}
	})
	one := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	two := w.run(t, w.enrol(t, w.directory.put("device-2", "uid-2")))
	up1, up2 := receive(t, one.connected, "device 1"), receive(t, two.connected, "device 2")
	w.handler.next(t, "started")
	w.handler.next(t, "started")
	if err := up1.send.Send(t.Context(), podStatus("a", 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := up2.send.Send(t.Context(), podStatus("b", 10)); err != nil {
		t.Fatal(err)
	}
	if got := w.handler.next(t, "message"); got.s.Device().Name != "device-2" {
		t.Errorf("message of %s", got.s.Device())
	}
	close(gate)
	if got := w.handler.next(t, "message"); got.s.Device().Name != "device-1" {
		t.Errorf("message of %s", got.s.Device())
	}
}

func TestMessageTooLargeForServer(t *testing.T) {
	w := newWorld(t)
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	up := receive(t, d.connected, "the device to connect")
	w.handler.next(t, "started")
	if err := up.send.Send(t.Context(), podStatus("a", edgeapi.MaxDeviceMessage+1)); !errors.Is(err, uplink.ErrMessage) || !strings.Contains(err.Error(), "more than the server accepts") {
		t.Errorf("Send: %v", err)
	}
	if err := up.send.Send(t.Context(), podStatus("a", 1000)); err != nil {
		t.Errorf("Send afterwards: %v", err)
	}
	w.handler.next(t, "message")
}

// The agent must not try it again over the next link, which would end over it, too.
func TestMessageThatCannotBeEncoded(t *testing.T) {
	w := newWorld(t)
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	up := receive(t, d.connected, "the device to connect")
	event := &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{Event: &edgeapi.Event{Message: "\xff"}}}
	if err := up.send.Send(t.Context(), event); !errors.Is(err, uplink.ErrMessage) {
		t.Errorf("Send: %v", err)
	}
}

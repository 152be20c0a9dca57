package gateway_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/test/framework/eventually"
)

// parkedWorld is a gateway that parks links soon, and a device that is parked.
type parkedWorld struct {
	*world
	broker  *brokertest.Mosquitto
	device  *device
	session gateway.Session
	link    connected
}

func newParkedWorld(t *testing.T, change ...func(*gateway.Config)) *parkedWorld {
	t.Helper()
	w := &parkedWorld{broker: brokertest.Start(t, "")}
	change = append([]func(*gateway.Config){func(c *gateway.Config) { c.ParkAfter = 20 * time.Millisecond }}, change...)
	w.world = newWorld(t, change...)
	w.serveMQTT(t, w.broker.Address)
	w.device, _ = w.mqttDevice(t, w.broker.Address, func(d *device, _ *uplink.Config) { d.serve = cat(7) })
	w.link = receive(t, w.device.connected, "the device to connect")
	w.session = w.handler.next(t, "started").s
	w.parks(t)
	return w
}

// parks waits until the link is parked.
func (w *parkedWorld) parks(t *testing.T) {
	t.Helper()
	eventually.Holds(t, "the link is parked", func() bool { return w.session.Info().Parked })
}

// unbroken checks that the session, on both ends, is still the first one.
func (w *parkedWorld) unbroken(t *testing.T) {
	t.Helper()
	select {
	case <-w.session.Done():
		t.Fatal("the session is over")
	case err := <-w.device.disconnected:
		t.Fatalf("the device was disconnected: %v", err)
	case r := <-w.handler.records:
		t.Fatalf("the handler was told %q", r.what)
	default:
	}
	if s, ok := w.Session("edge", "device-1"); !ok || s != w.session {
		t.Error("the session was replaced")
	}
}

// A parked link is resumed by whoever has something to say, again and again, and neither end's user notices.
func TestParked(t *testing.T) {
	w := newParkedWorld(t)
	before := w.session.Info()
	for range 3 {
		if err := w.session.Send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DesiredPods{DesiredPods: &edgeapi.DesiredPods{}}}); err != nil {
			t.Fatal(err)
		}
		for { // Welcome comes with each connection
			if msg := receive(t, w.device.messages, "the device to get the message"); msg.GetDesiredPods() != nil {
				break
			}
		}
		w.parks(t)

		status := &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{Event: &edgeapi.Event{Reason: "Test"}}}
		if err := w.link.send.Send(t.Context(), status); err != nil {
			t.Fatal(err)
		}
		if got := w.handler.next(t, "message").msg.GetEvent().GetReason(); got != "Test" {
			t.Errorf("the event's reason is %q", got)
		}
		w.parks(t)

		st, err := w.session.OpenStream(t.Context(), execRequest("cat"))
		if err != nil {
			t.Fatal(err)
		}
		stdin := st.Writer(edgeapi.Channel_STDIN)
		_, _ = io.WriteString(stdin, "hello")
		_ = stdin.Close()
		if out, err := io.ReadAll(st.Reader(edgeapi.Channel_STDOUT)); err != nil || string(out) != "hello" {
			t.Errorf("%q came back, error %v", out, err)
		}
		if result, err := st.Wait(t.Context()); err != nil || result.ExitCode != 7 {
			t.Errorf("result %v, error %v", result, err)
		}
		st.Close()
		w.parks(t)
	}
	w.unbroken(t)
	after := w.session.Info()
	if after.Since != before.Since || after.BytesIn <= before.BytesIn || after.BytesOut <= before.BytesOut {
		t.Errorf("the link was %+v and is %+v", before, after)
	}
	var explained int64
	for _, sum := range after.Traffic {
		explained += sum.Received
	}
	if explained != after.BytesIn {
		t.Errorf("%d bytes came in, %d are explained", after.BytesIn, explained)
	}
	w.device.stop()
	w.handler.next(t, "ended")
}

// A link is not parked while a stream is open.
func TestNotParkedWhileBusy(t *testing.T) {
	w := newParkedWorld(t)
	st, err := w.session.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	stdin, out := st.Writer(edgeapi.Channel_STDIN), st.Reader(edgeapi.Channel_STDOUT)
	for range 5 {
		time.Sleep(40 * time.Millisecond) // longer than it takes to be parked
		if _, err := io.WriteString(stdin, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if w.session.Info().Parked {
			t.Fatal("the link was parked")
		}
	}
}

// Heartbeats go on while a link is parked, as notes, and tell what they always tell.
func TestHeartbeatOfParked(t *testing.T) {
	w := newParkedWorld(t, func(c *gateway.Config) { c.PingTimeout = time.Second })
	w.directory.change("device-1", heartbeatEvery(time.Second))
	w.DeviceChanged("edge", "device-1")
	for msg := receive(t, w.device.messages, "the new interval"); msg.GetWelcome().GetHeartbeatIntervalMs() != 1000; {
		msg = receive(t, w.device.messages, "the new interval")
	}
	w.parks(t)
	seen := w.session.Info().LastSeen
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		if info := w.session.Info(); info.LastSeen.After(seen.Add(time.Second)) && info.CPUNanoCores == 5e8 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing was heard of the device: %+v", w.session.Info())
		}
		if !w.session.Info().Parked {
			t.Fatal("the heartbeat has resumed the link")
		}
	}
	w.unbroken(t)
}

// What ends a parked link is noticed by the other end at once.
func TestParkedEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		end    func(*parkedWorld)
		reason string // of the session
		device string // what the device is told
	}{
		"the device leaves": {func(w *parkedWorld) { w.device.stop() }, "gone", ""},
		"the EdgeDevice is deleted": {func(w *parkedWorld) {
			w.directory.remove("device-1")
			w.DeviceDeleted(w.session.Device())
		}, "does not exist", "does not exist"},
		"closed by the server": {func(w *parkedWorld) { w.session.Close(errors.New("because")) }, "because", "say Hello"},
		"the server stops":     {func(w *parkedWorld) { w.stop() }, "shutting down", ""},
		"the broker is lost":   {func(w *parkedWorld) { w.broker.Stop() }, "is down", "is down"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newParkedWorld(t)
			tt.end(w)
			if got := w.handler.next(t, "ended"); !strings.Contains(got.reason.Error(), tt.reason) {
				t.Errorf("the session ended because %v", got.reason)
			}
			if err := receive(t, w.device.disconnected, "the device to notice"); !strings.Contains(err.Error(), tt.device) {
				t.Errorf("the device was disconnected by %v", err)
			}
		})
	}
}

// A device that does not come when it is asked to is given up.
func TestParkedDoesNotCome(t *testing.T) {
	w := newParkedWorld(t, func(c *gateway.Config) { c.PingTimeout = 50 * time.Millisecond })
	w.broker.Pause()
	defer w.broker.Resume()
	if _, err := w.session.OpenStream(t.Context(), execRequest("cat")); err == nil {
		t.Error("a stream was opened")
	}
	if got := w.handler.next(t, "ended"); !strings.Contains(got.reason.Error(), "did not answer") {
		t.Errorf("the session ended because %v", got.reason)
	}
}

// The certificate is renewed while the link is parked.
func TestRenewalOfParked(t *testing.T) {
	// Long enough that the link is parked before the first renewal on a slow machine: few are allowed within a minute.
	w := newParkedWorld(t, func(c *gateway.Config) { c.CertificateLifetime = 10 * time.Second })
	expiry := func() time.Time {
		ed, err := w.directory.Get("edge", "device-1")
		if err != nil {
			t.Fatal(err)
		}
		return ed.Status.Certificate.NotAfter.Time
	}
	first := expiry()
	eventually.Holds(t, "the certificate is renewed", func() bool { return expiry().After(first) })
	w.unbroken(t)
}

// Many streams at once over a link that is being parked and resumed all the time: none is lost.
func TestParkedUnderLoad(t *testing.T) {
	w := newParkedWorld(t, func(c *gateway.Config) { c.ParkAfter = time.Millisecond })
	w.device.serve = func(_ context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
		_ = s.Finish(&edgeapi.Result{ExitCode: 3})
	}
	const each = 60
	failures := make(chan error, 4)
	for range cap(failures) {
		go func() {
			failures <- func() error {
				for i := range each {
					st, err := w.session.OpenStream(t.Context(), execRequest("x"))
					if err != nil {
						return err
					}
					result, err := st.Wait(t.Context())
					st.Close()
					if err != nil || result.ExitCode != 3 {
						return errors.Join(err, errors.New("wrong result"))
					}
					time.Sleep(time.Duration(i%7) * time.Millisecond)
				}
				return nil
			}()
		}()
	}
	for range cap(failures) {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	w.unbroken(t)
}

func heartbeatEvery(d time.Duration) func(*v1alpha1.EdgeDevice) {
	return func(ed *v1alpha1.EdgeDevice) { ed.Spec.Connectivity.HeartbeatInterval = &metav1.Duration{Duration: d} }
}

package gateway_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics/legacyregistry"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/test/framework/eventually"
)

func nodeStatus(text string) *edgeapi.DeviceMessage {
	return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_NodeStatus{NodeStatus: &edgeapi.NodeStatus{Status: []byte(text)}}}
}

func podStatus(uid string, size int) *edgeapi.DeviceMessage {
	return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_PodStatus{PodStatus: &edgeapi.PodStatus{Uid: uid, Status: make([]byte, size)}}}
}

func deletePod(uid string) *edgeapi.ServerMessage {
	return &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DeletePod{DeletePod: &edgeapi.DeletePod{Uid: uid}}}
}

func runPod(uid string, size int) *edgeapi.ServerMessage {
	return &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_RunPod{RunPod: &edgeapi.RunPod{Uid: uid, Pod: make([]byte, size)}}}
}

func TestConnect(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1", func(ed *v1alpha1.EdgeDevice) {
		ed.Spec.Connectivity.HeartbeatInterval = &metav1.Duration{Duration: 25 * time.Second}
		ed.Spec.Host.AllowExec = new(bool)
	})
	d := w.run(t, w.enrol(t, ed))
	if d.Device() != ed {
		t.Errorf("the device is %v, expected %v", d.Device(), ed)
	}

	up := receive(t, d.connected, "the device to connect")
	if up.welcome.HeartbeatIntervalMs != 25000 || up.welcome.Replica != "replica-1" || up.welcome.NodeName != "device-1" ||
		up.welcome.PodCapacity != 110 || up.welcome.HostPolicy.AllowExec || !up.welcome.HostPolicy.AllowLog {
		t.Errorf("Welcome: %v", up.welcome)
	}
	s := w.handler.next(t, "started").s
	if s.Device() != ed || s.Hello().AgentVersion != "test" {
		t.Errorf("session of %v, Hello %v", s.Device(), s.Hello())
	}
	if got, ok := w.Session("edge", "device-1"); !ok || got != s {
		t.Errorf("Session returned %v, %v", got, ok)
	}
	if got := w.Sessions(); len(got) != 1 || got[0] != s {
		t.Errorf("Sessions returned %v", got)
	}

	for _, text := range []string{"a", "b", "c"} {
		if err := up.send.Send(t.Context(), nodeStatus(text)); err != nil {
			t.Fatal(err)
		}
		if got := string(w.handler.next(t, "message").msg.GetNodeStatus().Status); got != text {
			t.Errorf("message %q, expected %q", got, text)
		}
	}
	for _, uid := range []string{"a", "b", "c"} {
		if err := s.Send(deletePod(uid)); err != nil {
			t.Fatal(err)
		}
	}
	for _, uid := range []string{"a", "b", "c"} {
		if got := receive(t, d.messages, "a message").GetDeletePod().Uid; got != uid {
			t.Errorf("message about %q, expected %q", got, uid)
		}
	}

	eventually.Holds(t, "the round trip was measured", func() bool { return s.Info().RoundTrip > 0 })
	info := s.Info()
	if info.CPUNanoCores != 5e8 || info.MemoryBytes != 64<<20 || info.Method != "grpc" || info.Replica != "replica-1" ||
		info.BytesIn == 0 || info.BytesOut == 0 || info.Streams != 0 || !strings.HasPrefix(info.RemoteAddress, "127.0.0.1:") ||
		string(info.NodeStatus.Status) != "c" || time.Since(info.LastSeen) > deadline {
		t.Errorf("Info: %+v", info)
	}

	d.stop()
	if end := w.handler.next(t, "ended"); end.s != s || end.reason == nil || !strings.Contains(end.reason.Error(), "the device closed the link") {
		t.Errorf("ended: %v", end.reason)
	}
	receive(t, s.Done(), "the session to be done")
	if _, ok := w.Session("edge", "device-1"); ok {
		t.Error("the session is still registered")
	}
	if err := s.Send(deletePod("d")); !errors.Is(err, gateway.ErrClosed) {
		t.Errorf("Send after the end: %v", err)
	}
}

// What a device says first may be large: the limit on strangers is lifted in time.
func TestLargeHello(t *testing.T) {
	w := newWorld(t)
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")), func(d *device, _ *uplink.Config) { d.hello = make([]byte, 1<<20) })
	receive(t, d.connected, "the device to connect")
	if s := w.handler.next(t, "started").s; len(s.Info().NodeStatus.Status) != 1<<20 {
		t.Errorf("Hello arrived with %d bytes", len(s.Info().NodeStatus.Status))
	}
}

// Protocol errors of a device end its link with a reason.
func TestProtocolViolations(t *testing.T) {
	hello := &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{Hello: &edgeapi.Hello{}}}
	for name, c := range map[string]struct {
		say  []*edgeapi.DeviceMessage
		code codes.Code
		text string
	}{
		"no Hello":   {[]*edgeapi.DeviceMessage{nodeStatus("x")}, codes.InvalidArgument, "first message must be Hello"},
		"two Hellos": {[]*edgeapi.DeviceMessage{hello, hello}, codes.InvalidArgument, "said before"},
		"too large":  {[]*edgeapi.DeviceMessage{hello, podStatus("a", edgeapi.MaxDeviceMessage+1)}, codes.ResourceExhausted, "larger than max"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			call, err := w.rawClient(t, certificateIn(t, w.enrol(t, w.directory.put("device-1", "uid-1")))).Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, msg := range c.say {
				if err := call.Send(msg); err != nil {
					t.Fatal(err)
				}
			}
			for err == nil {
				_, err = call.Recv()
			}
			wantCode(t, err, c.code, c.text)
		})
	}
}

func TestNoNode(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1", func(ed *v1alpha1.EdgeDevice) { ed.Spec.Node.Disabled = true })
	d := w.run(t, w.enrol(t, ed))
	if up := receive(t, d.connected, "the device to connect"); up.welcome.NodeName != "" || up.welcome.HeartbeatIntervalMs != 40000 {
		t.Errorf("Welcome: %v", up.welcome)
	}
}

// A server that goes away tells why; the device comes back to the next one by itself.
func TestServerRestart(t *testing.T) {
	w := newWorld(t)
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	receive(t, d.connected, "the device to connect")
	s := w.handler.next(t, "started").s
	w.stop()
	if end := w.handler.next(t, "ended"); end.s != s || !errors.Is(end.reason, gateway.ErrStopping) {
		t.Errorf("ended: %v", end.reason)
	}
	if err := receive(t, d.disconnected, "the device to be told"); !strings.Contains(err.Error(), "replica replica-1 is shutting down") {
		t.Errorf("the device was told %q", err)
	}
	w.start(t)
	receive(t, d.connected, "the device to connect again")
	w.handler.next(t, "started")
}

// The address of the server is configuration, not identity.
func TestServerMoved(t *testing.T) {
	w := newWorld(t)
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	w.stop()
	former := w.address
	l, err := net.Listen("tcp", former) // so that the next one is another
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.address = ""
	w.start(t)
	d := w.run(t, dir)
	receive(t, d.connected, "the device to connect elsewhere")
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	_, s := connectedWith(t, w, cat(0))
	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			values[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, least := range map[string]float64{
		"aranya_gateway_sessions": 1, "aranya_gateway_streams": 1, "aranya_gateway_streams_total": 1, "aranya_gateway_enrolments_total": 1,
	} {
		if values[name] < least {
			t.Errorf("%s is %v", name, values[name])
		}
	}
}

func TestLostLink(t *testing.T) {
	w := newWorld(t)
	dialer := &countingDialer{}
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")), func(_ *device, c *uplink.Config) { c.Dialer = dialer })
	up := receive(t, d.connected, "the device to connect")
	w.handler.next(t, "started")
	dialer.cut()
	_ = receive(t, d.disconnected, "the device to notice")
	receive(t, up.ctx.Done(), "the context of the link to end")
	if err := up.send.Send(t.Context(), nodeStatus("late")); err == nil {
		t.Error("Send succeeded on a link that is down")
	}
	// It is in the status of the EdgeDevice: gRPC's own words for it would tell nobody anything. What the device had
	// not read yet makes it a reset.
	if end := w.handler.next(t, "ended").reason.Error(); !strings.Contains(end, "closed from the device's side") && !strings.Contains(end, "reset by peer") {
		t.Errorf("the reason is %q", end)
	}
	receive(t, d.connected, "the device to connect again")
	w.handler.next(t, "started")
}

// A device that ends its call and nothing else, as no agent does, is told in words as well.
func TestCancelledCall(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	call, err := w.rawClient(t, certificateIn(t, w.enrol(t, w.directory.put("device-1", "uid-1")))).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := call.Send(&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{Hello: &edgeapi.Hello{}}}); err != nil {
		t.Fatal(err)
	}
	w.handler.next(t, "started")
	cancel()
	if end := w.handler.next(t, "ended"); !strings.Contains(end.reason.Error(), "the device cancelled the call") {
		t.Errorf("the reason is %q", end.reason)
	}
}

// A second connection of the same device takes the place of the first, and the handler sees one end
// before the other starts.
func TestDuplicateConnect(t *testing.T) {
	w := newWorld(t)
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	first := w.run(t, dir)
	receive(t, first.connected, "the first to connect")
	one := w.handler.next(t, "started").s
	second := w.run(t, dir)
	receive(t, second.connected, "the second to connect")
	if end := w.handler.next(t, "ended"); end.s != one || status.Code(end.reason) != codes.Aborted {
		t.Errorf("ended: %v", end.reason)
	}
	two := w.handler.next(t, "started").s
	if err := receive(t, first.disconnected, "the first to be told"); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "copy of its identity") {
		t.Errorf("the first was told %q", err)
	}
	if got, _ := w.Session("edge", "device-1"); got != two {
		t.Error("the second session is not the registered one")
	}
}

// A device that comes again in the middle of taking over, many times: what is left is one session.
func TestManyConnects(t *testing.T) {
	w := newWorld(t)
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	for range 8 {
		w.run(t, dir)
	}
	started, ended := map[gateway.Session]bool{}, 0
	for ended < 7 {
		select {
		case r := <-w.handler.records:
			switch r.what {
			case "started":
				if len(started)-ended != 0 {
					t.Fatal("a session started before the one before had ended")
				}
				started[r.s] = true
			case "ended":
				ended++
			}
		case <-time.After(deadline):
			t.Fatalf("%d started, %d ended", len(started), ended)
		}
	}
	eventually.Holds(t, "one is left", func() bool { return len(w.Sessions()) == 1 })
}

// What changes in the spec reaches a connected device.
func TestSpecChange(t *testing.T) {
	w := newWorld(t)
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	receive(t, d.connected, "the device to connect")
	w.handler.next(t, "started")
	w.directory.change("device-1", func(ed *v1alpha1.EdgeDevice) { ed.Spec.Host.AllowExec = new(bool) })
	w.DeviceChanged("edge", "device-1")
	if got := receive(t, d.messages, "a further Welcome").GetWelcome(); got == nil || got.HostPolicy.AllowExec {
		t.Errorf("got %v", got)
	}
}

// A device that stays silent is cut off; one that answers is not.
func TestSilentDevice(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.PingTimeout = 200 * time.Millisecond })
	ed := w.directory.put("device-1", "uid-1", func(ed *v1alpha1.EdgeDevice) {
		ed.Spec.Connectivity.HeartbeatInterval = &metav1.Duration{Duration: 50 * time.Millisecond}
	})
	dialer := &freezer{}
	d := w.run(t, w.enrol(t, ed), func(_ *device, c *uplink.Config) { c.Dialer = dialer })
	receive(t, d.connected, "the device to connect")
	s := w.handler.next(t, "started").s
	before := s.Info().BytesIn
	eventually.Holds(t, "several pings were answered", func() bool { return s.Info().BytesIn > before+500 })
	dialer.frozen.Store(true)
	if end := w.handler.next(t, "ended"); end.s != s || !strings.Contains(end.reason.Error(), "did not answer a ping") {
		t.Errorf("ended: %v", end.reason)
	}
	dialer.thaw()
}

package gateway_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/test/framework/eventually"
)

// TestTraffic sends bytes there and back and finds them in what both ends count, also after the device has
// connected anew.
func TestTraffic(t *testing.T) {
	const size = 300 << 10
	w := newWorld(t)
	device, s := connectedWith(t, w, cat(0))
	w.directory.change("device-1", func(ed *v1alpha1.EdgeDevice) {
		ed.Spec.Connectivity.HeartbeatInterval = &metav1.Duration{Duration: 50 * time.Millisecond}
	})
	w.DeviceChanged("edge", "device-1")
	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	go func() {
		in := st.Writer(edgeapi.Channel_STDIN)
		_, _ = in.Write(bytes.Repeat([]byte("x"), size))
		_ = in.Close()
	}()
	if n, err := io.Copy(io.Discard, st.Reader(edgeapi.Channel_STDOUT)); n != size || err != nil {
		t.Fatal(n, err)
	}

	within := func(sum traffic.Sum, least, most int64) bool {
		return sum.Received >= least && sum.Received <= most && sum.Sent >= least && sum.Sent <= most
	}
	exec := edgeapi.TrafficKind_TRAFFIC_EXEC
	info := s.Info()
	if !within(info.Traffic[exec], size, size+size/50) {
		t.Errorf("the server counted %v of the command, want %d each way", info.Traffic[exec], size)
	}
	for _, kind := range []edgeapi.TrafficKind{edgeapi.TrafficKind_TRAFFIC_CONTROL, edgeapi.TrafficKind_TRAFFIC_OVERHEAD} {
		if !within(info.Traffic[kind], 1, 64<<10) {
			t.Errorf("the server counted %v of %s", info.Traffic[kind], traffic.Name(kind))
		}
	}
	if got := info.Traffic[edgeapi.TrafficKind_TRAFFIC_LOG]; got != (traffic.Sum{}) {
		t.Errorf("the server counted %v of logs", got)
	}
	told := func(s gateway.Session) func() bool {
		return func() bool {
			for _, l := range s.Info().DeviceTraffic {
				if l.Method == link.MethodGRPC && l.Kind == exec {
					return within(traffic.Sum{Received: int64(l.Received), Sent: int64(l.Sent)}, size, size+size/50)
				}
			}
			return false
		}
	}
	eventually.Holds(t, "the device has told what it counted", told(s))

	s.Close(nil)
	_ = receive(t, device.disconnected, "the device to notice")
	receive(t, device.connected, "the device to connect again")
	w.handler.next(t, "ended")
	again := w.handler.next(t, "started").s
	eventually.Holds(t, "the device has told what it counted before", told(again))
	if got := again.Info().Traffic[exec]; got != (traffic.Sum{}) {
		t.Errorf("the server counted %v of commands over a new link", got)
	}
}

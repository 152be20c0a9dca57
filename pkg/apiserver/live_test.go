package apiserver

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/traffic"
)

// liveSession is the session of one device.
type liveSession struct {
	gateway.Session
	device gateway.Device
	info   gateway.Info
}

func (s *liveSession) Device() gateway.Device { return s.device }
func (s *liveSession) Info() gateway.Info     { return s.info }

// oneSession is a gateway with one session.
type oneSession struct{ *liveSession }

func (o oneSession) Session(namespace, name string) (gateway.Session, bool) {
	return o.liveSession, namespace == o.device.Namespace && name == o.device.Name
}

func neverSeen(string, string) time.Time { return time.Time{} }

func nodeStatus(t *testing.T, kernel string) *edgeapi.NodeStatus {
	t.Helper()
	status := corev1.NodeStatus{
		Capacity:  corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.7"}},
		NodeInfo:  corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "arm64", KernelVersion: kernel},
	}
	data, err := status.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &edgeapi.NodeStatus{Status: data}
}

// device returns an EdgeDevice as it is stored.
func device(namespace string, uid types.UID) *aranya.EdgeDevice {
	d := &aranya.EdgeDevice{}
	d.Namespace, d.Name, d.UID = namespace, "camera-1", uid
	d.Status.Phase = aranya.EdgeDeviceOffline
	d.Status.Device = &aranya.DeviceInfo{KernelVersion: "stored"}
	return d
}

func TestOverlay(t *testing.T) {
	seen := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	session := &liveSession{
		device: gateway.Device{Namespace: "edge", Name: "camera-1", UID: "1"},
		info: gateway.Info{
			Method: "grpc", Since: seen.Add(-time.Hour), LastSeen: seen, RoundTrip: 7 * time.Millisecond, BytesIn: 1, BytesOut: 2,
			Streams: 3, RemoteAddress: "192.0.2.1:5", Replica: "replica-1", CPUNanoCores: 250_000_000, MemoryBytes: 64 << 20,
			NodeStatus: nodeStatus(t, "6.1"), Traffic: traffic.Sums{edgeapi.TrafficKind_TRAFFIC_EXEC: {Received: 5, Sent: 6}},
			DeviceTraffic: []*edgeapi.LinkTraffic{{Method: "mqtt", Kind: edgeapi.TrafficKind_TRAFFIC_LOG, Received: 7, Sent: 8}},
		},
	}
	live := newLiveStatus(oneSession{session}, neverSeen)

	got := device("edge", "1")
	live.Overlay(got)
	lastSeen := metav1.NewTime(seen)
	want := aranya.EdgeDeviceStatus{
		Phase:    aranya.EdgeDeviceOnline,
		LastSeen: &lastSeen,
		Link: &aranya.LinkStatus{
			Method: "grpc", Since: metav1.NewTime(seen.Add(-time.Hour)), RoundTrip: &metav1.Duration{Duration: 7 * time.Millisecond},
			BytesIn: 1, BytesOut: 2, Streams: 3, RemoteAddress: "192.0.2.1:5", Replica: "replica-1",
			Traffic: []aranya.KindTraffic{{Kind: "exec", BytesIn: 5, BytesOut: 6}},
		},
		Traffic: []aranya.DeviceTraffic{{Link: "mqtt", Kind: "log", BytesIn: 8, BytesOut: 7}},
		Usage:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
		Device: &aranya.DeviceInfo{
			OperatingSystem: "linux", Architecture: "arm64", KernelVersion: "6.1",
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.7"}},
			Capacity:  corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
		},
	}
	if !apiequality.Semantic.DeepEqual(got.Status, want) {
		t.Errorf("got %+v\nwant %+v", got.Status, want)
	}

	// What a reader gets is theirs to change.
	got.Status.Device.Capacity[corev1.ResourceCPU] = resource.MustParse("99")
	again := device("edge", "1")
	live.Overlay(again)
	if !apiequality.Semantic.DeepEqual(again.Status, want) {
		t.Errorf("one reader changed what another got: %+v", again.Status)
	}

	session.info.NodeStatus = nodeStatus(t, "6.2")
	live.Overlay(again)
	if again.Status.Device.KernelVersion != "6.2" {
		t.Errorf("a new node status is not seen: %q", again.Status.Device.KernelVersion)
	}
}

func TestOverlayLeavesOthersAlone(t *testing.T) {
	session := &liveSession{device: gateway.Device{Namespace: "edge", Name: "camera-1", UID: "1"}, info: gateway.Info{LastSeen: time.Now()}}
	live := newLiveStatus(oneSession{session}, neverSeen)
	for name, d := range map[string]*aranya.EdgeDevice{
		"a device that is not connected":    device("other", "1"),
		"the successor of a deleted device": device("edge", "2"),
	} {
		before := d.DeepCopy()
		live.Overlay(d)
		if !apiequality.Semantic.DeepEqual(before, d) {
			t.Errorf("%s was changed to %+v", name, d.Status)
		}
	}
}

// A device that does not come back after a restart of aranya is still stored as connected. When it was seen reads as in
// errors about it.
func TestOverlayOfLastSeen(t *testing.T) {
	stored := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	later := stored.Add(21 * 24 * time.Hour)
	for name, tt := range map[string]struct {
		connected  metav1.ConditionStatus
		seen, want time.Time
	}{
		"later than is stored": {metav1.ConditionTrue, later, later},
		"as it is stored":      {metav1.ConditionTrue, stored, stored},
		"not known":            {metav1.ConditionTrue, time.Time{}, stored},
		"given up":             {metav1.ConditionFalse, later, stored},
	} {
		t.Run(name, func(t *testing.T) {
			session := &liveSession{device: gateway.Device{Namespace: "edge", Name: "other", UID: "2"}}
			live := newLiveStatus(oneSession{session}, func(namespace, name string) time.Time {
				if namespace != "edge" || name != "camera-1" {
					t.Errorf("asked for %s/%s", namespace, name)
				}
				return tt.seen
			})
			d := device("edge", "1")
			d.Status.LastSeen = &metav1.Time{Time: stored}
			d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.EdgeDeviceConnected, Status: tt.connected}}
			want := d.DeepCopy()
			want.Status.LastSeen = &metav1.Time{Time: tt.want}
			live.Overlay(d)
			if !apiequality.Semantic.DeepEqual(want, d) {
				t.Errorf("got %+v, want %+v", d.Status, want.Status)
			}
		})
	}
}

// TestOverlayOfSilentDevice has a device that sent nothing usable of itself.
func TestOverlayOfSilentDevice(t *testing.T) {
	session := &liveSession{device: gateway.Device{Namespace: "edge", Name: "camera-1", UID: "1"}, info: gateway.Info{LastSeen: time.Now()}}
	live := newLiveStatus(oneSession{session}, neverSeen)
	for name, status := range map[string]*edgeapi.NodeStatus{"none": nil, "garbage": {Status: []byte{0xff}}} {
		session.info.NodeStatus = status
		d := device("edge", "1")
		live.Overlay(d)
		if d.Status.Device.KernelVersion != "stored" || d.Status.Usage != nil || d.Status.Link.RoundTrip != nil {
			t.Errorf("%s: %+v", name, d.Status)
		}
	}
}

// TestOverlayBoundsWhatADeviceSays has a device that says more than what is stored of it may hold.
func TestOverlayBoundsWhatADeviceSays(t *testing.T) {
	reported := corev1.NodeStatus{
		Capacity: corev1.ResourceList{"cpu": resource.MustParse("-4"), "memory": resource.MustParse("1Gi"), "bad name!": resource.MustParse("1")},
		NodeInfo: corev1.NodeSystemInfo{OperatingSystem: "not a label", OSImage: strings.Repeat("x", 1<<20)},
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "10.0.0.7"},
			{Type: corev1.NodeHostName, Address: strings.Repeat("x", 1<<20)},
			{Type: corev1.NodeAddressType(strings.Repeat("x", 1<<20)), Address: "10.0.0.8"},
		},
	}
	for range 10000 {
		reported.Addresses = append(reported.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.9"})
	}
	data, err := reported.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	live := newLiveStatus(oneSession{&liveSession{
		device: gateway.Device{Namespace: "edge", Name: "camera-1", UID: "1"},
		info:   gateway.Info{Method: "grpc", NodeStatus: &edgeapi.NodeStatus{Status: data}},
	}}, neverSeen)
	stored, read := device("edge", "1"), device("edge", "1")
	stored.ResourceVersion, read.ResourceVersion = "1", "1"
	live.Overlay(read)
	if errs := validation.ValidateEdgeDeviceStatusUpdate(read, stored); len(errs) > 0 {
		t.Errorf("what is read could not be stored: %v", errs.ToAggregate())
	}
	if size := len(read.Status.Device.OSImage); size == 0 || size > 1024 {
		t.Errorf("the name of the OS has %d bytes", size)
	}
	if got := read.Status.Device.Capacity; len(got) != 1 || got.Memory().IsZero() {
		t.Errorf("the capacity is %v", got)
	}
}

package apiserver

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/lru"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	devicectl "arhat.dev/aranya/pkg/controller/device"
	"arhat.dev/aranya/pkg/controller/node"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/pkg/registry/edgedevice"
)

// decodedDevices bounds the memory for decoded node statuses: enough for every link that one replica
// is made for, about 1 KiB each.
const decodedDevices = 16384

// liveStatus puts the state of live links on EdgeDevices that are read.
type liveStatus struct {
	sessions gateway.Sessions
	// lastSeen says when a device that is not connected was last heard of, as errors about it do.
	lastSeen func(namespace, name string) time.Time
	// decoded holds a deviceInfo per session. A list of 10,000 devices would else decode as many node
	// statuses each time.
	decoded *lru.Cache
}

var _ edgedevice.LiveStatus = &liveStatus{}

func newLiveStatus(sessions gateway.Sessions, lastSeen func(namespace, name string) time.Time) *liveStatus {
	return &liveStatus{sessions: sessions, lastSeen: lastSeen, decoded: lru.New(decodedDevices)}
}

// deviceInfo is a decoded node status.
type deviceInfo struct {
	from *edgeapi.NodeStatus // what it was decoded from; never modified, so the pointer tells versions apart
	info *aranya.DeviceInfo  // nil: it cannot be decoded
}

// Overlay implements edgedevice.LiveStatus.
func (l *liveStatus) Overlay(obj *aranya.EdgeDevice) {
	session, ok := l.sessions.Session(obj.Namespace, obj.Name)
	if !ok || session.Device().UID != obj.UID {
		l.overlayLastSeen(obj)
		return
	}
	info := session.Info()
	status := &obj.Status
	status.Phase = aranya.EdgeDeviceOnline
	lastSeen := metav1.NewTime(info.LastSeen)
	status.LastSeen = &lastSeen
	status.Link = linkStatus(&info)
	status.Usage = usage(&info)
	status.Traffic = deviceTraffic(&info)
	if device := l.device(obj, info.NodeStatus); device != nil {
		status.Device = device
	}
}

// overlayLastSeen is for a device that is stored as connected and is not: what is stored is as old as the last change of
// its status, until it comes back or is given up.
func (l *liveStatus) overlayLastSeen(obj *aranya.EdgeDevice) {
	if !meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.EdgeDeviceConnected) {
		return
	}
	if seen := l.lastSeen(obj.Namespace, obj.Name); seen.After(ptr.Deref(obj.Status.LastSeen, metav1.Time{}).Time) {
		obj.Status.LastSeen = &metav1.Time{Time: seen}
	}
}

func linkStatus(info *gateway.Info) *aranya.LinkStatus {
	link := &aranya.LinkStatus{
		Method:        info.Method,
		Since:         metav1.NewTime(info.Since),
		BytesIn:       info.BytesIn,
		BytesOut:      info.BytesOut,
		Replica:       info.Replica,
		RemoteAddress: info.RemoteAddress,
		Streams:       info.Streams,
	}
	if info.RoundTrip > 0 {
		link.RoundTrip = &metav1.Duration{Duration: info.RoundTrip}
	}
	for _, kind := range traffic.Kinds() {
		if sum := info.Traffic[kind]; sum != (traffic.Sum{}) {
			link.Traffic = append(link.Traffic, aranya.KindTraffic{Kind: traffic.Name(kind), BytesIn: sum.Received, BytesOut: sum.Sent})
		}
	}
	return link
}

// deviceTraffic is what the device has counted. What it sent is what came in here.
func deviceTraffic(info *gateway.Info) (all []aranya.DeviceTraffic) {
	for _, t := range info.DeviceTraffic {
		all = append(all, aranya.DeviceTraffic{
			Link: t.GetMethod(), Kind: traffic.Name(t.GetKind()), BytesIn: clampInt64(t.GetSent()), BytesOut: clampInt64(t.GetReceived()),
		})
	}
	return all
}

// usage is nil for a device that does not know what it uses.
func usage(info *gateway.Info) corev1.ResourceList {
	if info.CPUNanoCores == 0 && info.MemoryBytes == 0 {
		return nil
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(clampInt64(info.CPUNanoCores), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(clampInt64(info.MemoryBytes), resource.BinarySI),
	}
}

func clampInt64(v uint64) int64 {
	const most = 1<<63 - 1
	return int64(min(v, most))
}

// device returns a copy of what the node status says about the machine, as far as it is stored as well. It is nil
// if the device says nothing.
func (l *liveStatus) device(obj *aranya.EdgeDevice, status *edgeapi.NodeStatus) *aranya.DeviceInfo {
	if status == nil {
		return nil
	}
	if cached, ok := l.decoded.Get(obj.UID); ok {
		if known := cached.(deviceInfo); known.from == status {
			return known.info.DeepCopy()
		}
	}
	info, err := decode(status)
	if err != nil {
		// The device's own fault. The controllers tell of it in an event, and in NodeReady if there is no Node.
		klog.V(4).InfoS("Cannot decode the node status of a device", "edgeDevice", klog.KObj(obj), "err", err)
	}
	l.decoded.Add(obj.UID, deviceInfo{from: status, info: info})
	return info.DeepCopy()
}

func decode(status *edgeapi.NodeStatus) (*aranya.DeviceInfo, error) {
	reported, err := node.Decode(status)
	if err != nil {
		return nil, err
	}
	info := &aranya.DeviceInfo{}
	return info, v1alpha1.Convert_v1alpha1_DeviceInfo_To_aranya_DeviceInfo(devicectl.Info(reported), info, nil)
}

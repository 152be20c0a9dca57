package pod

import (
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// maxStatus bounds the encoded status of a pod, which is kept in memory while the link is up.
const maxStatus = 256 << 10

// Message implements links.MessageListener. A device is heard only about pods that are bound to its
// own Node, and static pods of its own: what else it says is dropped, but for events of pods that have
// gone lately.
func (c *Controller) Message(s gateway.Session, msg *edgeapi.DeviceMessage) {
	st := c.state(s.Device())
	if st == nil || st.session != s {
		return
	}
	switch m := msg.GetMessage().(type) {
	case *edgeapi.DeviceMessage_PodStatus:
		c.reported(st, types.UID(m.PodStatus.GetUid()), m.PodStatus.GetStatus())
	case *edgeapi.DeviceMessage_PodRemoved:
		c.removed(st, types.UID(m.PodRemoved.GetUid()), m.PodRemoved.GetStatus())
	case *edgeapi.DeviceMessage_StaticPods:
		c.staticReported(st, m.StaticPods)
	case *edgeapi.DeviceMessage_Event:
		c.event(st, m.Event)
	}
}

// reported records the status of a pod.
func (c *Controller) reported(st *state, uid types.UID, status []byte) {
	pod := c.ofDevice(st.session.Device(), uid)
	st.mu.Lock()
	defer st.mu.Unlock()
	if (pod == nil && st.static[uid] == nil) || len(status) > maxStatus {
		refused(st, uid, "status")
		return
	}
	p := st.podLocked(uid)
	p.status, p.counted = status, false
	if pod != nil { // otherwise it is a static pod that is not shown yet
		c.status.Add(keyOf(pod))
	}
}

// removed records that nothing of a pod is left on the device.
func (c *Controller) removed(st *state, uid types.UID, status []byte) {
	pod := c.ofDevice(st.session.Device(), uid)
	st.mu.Lock()
	defer st.mu.Unlock()
	if pod == nil || staticpod.IsMirror(pod) || len(status) > maxStatus {
		delete(st.pods, uid) // gone in the cluster already, or none of the device's business
		return
	}
	p := st.podLocked(uid)
	p.removed, p.held = true, false
	if len(status) > 0 {
		p.status, p.counted = status, false
	}
	c.status.Add(keyOf(pod))
}

func (c *Controller) event(st *state, event *edgeapi.Event) {
	device := st.session.Device()
	nodeName := ""
	if owner, ok := c.config.Owner(device.Name); ok && owner == device {
		nodeName = device.Name
	}
	if event.GetPodUid() == "" {
		c.config.Events.FromDevice(device, nodeName, nil, event)
		return
	}
	uid := types.UID(event.GetPodUid())
	pod := c.ofDevice(device, uid)
	if pod == nil {
		st.mu.Lock()
		pod = st.static[uid] // that is not shown (yet)
		st.mu.Unlock()
	}
	if pod == nil {
		pod = c.formerOf(device, uid)
	}
	if pod == nil {
		refused(st, uid, "event")
		return
	}
	c.config.Events.FromDevice(device, nodeName, pod, event)
}

// refused logs what a device said about a pod that is not its own, or that was too long. It happens
// to honest devices too, when the pod was force-deleted meanwhile.
func refused(st *state, uid types.UID, what string) {
	d := st.session.Device()
	klog.Background().V(2).Info("Refused what a device reports: no such pod is bound to its Node, or it is too long",
		"edgeDevice", klog.KRef(d.Namespace, d.Name), "podUID", uid, "what", what)
}

package pod

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/queue"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// state is what is known of the pods on a device that has a live link. It starts with what the device
// says it holds, and ends with the link.
type state struct {
	session gateway.Session
	spent   *allowance

	mu sync.Mutex
	// desired is set once the device was told which pods it should hold. Before that no other message
	// about pods is sent: it would be overtaken by that list.
	desired bool
	pods    map[types.UID]*podState
	// static are the mirror pods of what the device runs by itself, by its UID there; nil until it has said.
	// What it reports about them is in pods.
	static map[types.UID]*corev1.Pod
}

// podState is what is known of one pod on a device.
type podState struct {
	// held is set if the device has the pod, as far as we know.
	held                  bool
	digest, volumesDigest string
	// volumes and tokens hold the digests of what was sent over this link; nil if nothing was.
	volumes, tokens map[string]string
	// generation of the pod that was sent last, 0 if none was over this link.
	generation int64
	// deleting is set once the device was asked to delete the pod, with this grace period.
	deleting bool
	grace    int64
	// status is the last one reported, a k8s.io/api/core/v1.PodStatus; nil if there was none. It is counted once it
	// was charged to the pace.
	status  []byte
	counted bool
	// removed is set once the device said that nothing of the pod is left.
	removed bool
	// finished is set once the deletion of the pod was completed in the cluster, which our informer may not have seen yet.
	finished bool
	// spent is what was used of its pace.
	spent queue.Spent
}

func newState(s gateway.Session) *state {
	st := &state{session: s, spent: &allowance{}, pods: map[types.UID]*podState{}}
	for _, p := range s.Hello().GetPods() {
		st.pods[types.UID(p.GetUid())] = &podState{held: true, digest: p.GetDigest(), volumesDigest: p.GetVolumesDigest()}
	}
	return st
}

// podLocked returns the record of a pod, a new one if there is none.
func (st *state) podLocked(uid types.UID) *podState {
	p := st.pods[uid]
	if p == nil {
		p = &podState{}
		st.pods[uid] = p
	}
	return p
}

// has says whether the device has announced a feature.
func (st *state) has(feature string) bool {
	return slices.Contains(st.session.Hello().GetFeatures(), feature)
}

func (st *state) send(msg *edgeapi.ServerMessage) error {
	return st.session.Send(msg)
}

// LinkUp implements links.Listener.
func (c *Controller) LinkUp(s gateway.Session) {
	st := newState(s)
	c.mu.Lock()
	if spent := c.spent[s.Device()]; spent != nil {
		st.spent = spent
	} else {
		c.spent[s.Device()] = st.spent
	}
	c.states[s.Device().Name] = append(c.othersLocked(s.Device()), st)
	c.mu.Unlock()
	c.devices.Add(s.Device())
}

// LinkDown implements links.Listener.
func (c *Controller) LinkDown(device gateway.Device, _ links.Loss) {
	c.mu.Lock()
	if others := c.othersLocked(device); len(others) > 0 {
		c.states[device.Name] = others
	} else {
		delete(c.states, device.Name)
	}
	c.lost[device] = c.config.Clock.Now()
	c.mu.Unlock()
	c.absent.AddAfter(device, absentAfter)
}

// othersLocked returns the records of the devices of this name in other namespaces, as a list of its own.
func (c *Controller) othersLocked(device gateway.Device) []*state {
	var others []*state
	for _, st := range c.states[device.Name] {
		if links.Key(st.session.Device()) != links.Key(device) {
			others = append(others, st)
		}
	}
	return others
}

// state returns the record of a device's live link, nil if it has none.
func (c *Controller) state(device gateway.Device) *state {
	for _, st := range c.statesNamed(device.Name) {
		if st.session.Device() == device {
			return st
		}
	}
	return nil
}

// statesNamed returns the records of all devices of this name.
func (c *Controller) statesNamed(name string) []*state {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.states[name]
}

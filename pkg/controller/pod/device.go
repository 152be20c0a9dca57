package pod

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// nodeChanged looks at the devices that a Node of this name may belong to.
func (c *Controller) nodeChanged(name string) {
	for _, st := range c.statesNamed(name) {
		c.devices.Add(st.session.Device())
	}
}

// syncDevice tells a device, once per link, which pods it should hold, and has each of them looked
// at. Until its Node is there it is not known which pods are the device's, and nothing is said.
func (c *Controller) syncDevice(ctx context.Context, device gateway.Device) (time.Duration, error) {
	st := c.state(device)
	if st == nil {
		return 0, nil
	}
	owner, owned := c.config.Owner(device.Name)
	owned = owned && owner == device
	if !owned && !c.withoutNode(device) {
		return 0, nil
	}
	desired := sets.New[types.UID]()
	var message edgeapi.DesiredPods
	var keys []key

	st.mu.Lock()
	defer st.mu.Unlock()
	if owned {
		for _, pod := range OnNode(c.indexer, device.Name) {
			if staticpod.IsMirror(pod) {
				continue // the device has it from somewhere else
			}
			keys = append(keys, keyOf(pod))
			p := st.pods[pod.UID]
			switch {
			case p != nil && p.held:
				message.Pods = append(message.Pods, &edgeapi.PodDigest{Uid: string(pod.UID), Digest: p.digest, VolumesDigest: p.volumesDigest})
			case pod.DeletionTimestamp == nil && (!terminal(pod.Status.Phase) || hasRun(pod)):
				message.Pods = append(message.Pods, &edgeapi.PodDigest{Uid: string(pod.UID)})
			default:
				continue
			}
			desired.Insert(pod.UID)
		}
	}
	if !st.desired {
		err := st.send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DesiredPods{DesiredPods: &message}})
		if errors.Is(err, gateway.ErrClosed) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		st.desired = true
		for uid := range st.pods {
			if !desired.Has(uid) && st.static[uid] == nil {
				delete(st.pods, uid)
			}
		}
		klog.FromContext(ctx).V(2).Info("Told the device which pods it should hold", "edgeDevice", klog.KRef(device.Namespace, device.Name), "pods", len(message.Pods))
	}
	for _, k := range keys {
		c.sync.Add(k)
	}
	c.mirrors.Add(device)
	return 0, nil
}

// withoutNode says whether a device is not to have a Node, and has none: then it has no pods.
func (c *Controller) withoutNode(device gateway.Device) bool {
	ed, err := c.edgeDevices.EdgeDevices(device.Namespace).Get(device.Name)
	if apierrors.IsNotFound(err) {
		return false
	}
	return err == nil && ed.UID == device.UID && ed.Spec.Node.Disabled
}

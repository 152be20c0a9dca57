package pod

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

const (
	// formerTime is for how long a pod that is gone is remembered: for as long as its events are usually kept.
	formerTime = time.Hour
	// maxFormer is how many are remembered, of all devices: those that have gone last.
	maxFormer = 8192
)

// remember keeps what identifies a pod that is gone: its device may have yet to stop it, if it was deleted by force, and
// tells of that.
func (c *Controller) remember(pod *corev1.Pod) {
	if !c.ours(pod) || staticpod.IsMirror(pod) { // of static pods events are recorded without a mirror pod
		return
	}
	c.former.Add(pod.UID, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion},
		Spec:       corev1.PodSpec{NodeName: pod.Spec.NodeName},
	}, formerTime)
}

// formerOf returns what identifies a pod of a device that has gone lately, or nil.
func (c *Controller) formerOf(device gateway.Device, uid types.UID) *corev1.Pod {
	known, ok := c.former.Get(uid)
	if !ok {
		return nil
	}
	pod := known.(*corev1.Pod)
	if owner, ok := c.config.Owner(pod.Spec.NodeName); !ok || owner != device {
		return nil
	}
	return pod
}

package pod

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/queue"
)

// podHandler notices what happens to pods. Pods on foreign Nodes are nobody's business here; a pod
// that is gone is looked at in any case, because its Node may be gone as well.
func (c *Controller) podHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if pod, ok := object.(*corev1.Pod); ok && c.ours(pod) {
				c.sync.Add(keyOf(pod))
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*corev1.Pod)
			pod, ok2 := after.(*corev1.Pod)
			if !ok1 || !ok2 {
				return
			}
			if old.UID != pod.UID {
				c.remember(old)
				c.sync.Add(keyOf(old))
			}
			if !c.ours(pod) {
				return
			}
			if old.UID != pod.UID || changed(old, pod) {
				c.sync.Add(keyOf(pod))
			}
			if !apiequality.Semantic.DeepEqual(old.Status, pod.Status) {
				c.status.Add(keyOf(pod))
			}
		},
		DeleteFunc: func(object any) {
			if pod, ok := queue.Deleted(object).(*corev1.Pod); ok {
				c.remember(pod)
				c.sync.Add(keyOf(pod))
			}
		},
	}
}

// nodeHandler notices that a Node becomes aranya's own, or ceases to be, and that its device is away.
func (c *Controller) nodeHandler() cache.ResourceEventHandler {
	notice := func(object any) {
		if n, ok := object.(*corev1.Node); ok {
			c.nodeChanged(n.Name)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			notice(object)
			if n, ok := object.(*corev1.Node); ok {
				c.nodeUnknown(n)
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*corev1.Node)
			n, ok2 := after.(*corev1.Node)
			if ok1 && ok2 && !unknown(old) {
				c.nodeUnknown(n)
			}
			if ok1 && ok2 && (old.UID != n.UID || !maps.Equal(old.Labels, n.Labels) || !maps.Equal(old.Annotations, n.Annotations)) {
				notice(after)
			}
		},
		DeleteFunc: func(object any) { notice(queue.Deleted(object)) },
	}
}

// deviceHandler notices that a device is not to have a Node any more: if it has none, no Node tells of that.
func (c *Controller) deviceHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*aranya.EdgeDevice)
			ed, ok2 := after.(*aranya.EdgeDevice)
			if ok1 && ok2 && old.Spec.Node.Disabled != ed.Spec.Node.Disabled {
				c.nodeChanged(ed.Name)
			}
		},
	}
}

func (c *Controller) ours(pod *corev1.Pod) bool {
	_, ok := c.config.Owner(pod.Spec.NodeName)
	return ok
}

// changed says whether a pod changed in a way that its device should hear of.
func changed(old, pod *corev1.Pod) bool {
	return !maps.Equal(old.Labels, pod.Labels) ||
		!maps.Equal(old.Annotations, pod.Annotations) ||
		!old.DeletionTimestamp.Equal(pod.DeletionTimestamp) ||
		!ptr.Equal(old.DeletionGracePeriodSeconds, pod.DeletionGracePeriodSeconds) ||
		terminal(old.Status.Phase) != terminal(pod.Status.Phase) ||
		!apiequality.Semantic.DeepEqual(old.Spec, pod.Spec)
}

// terminal says whether a pod will never run again.
func terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// hasRun says whether a container of a pod was ever made, so that something of it may lie on its device.
func hasRun(pod *corev1.Pod) bool {
	made := func(s corev1.ContainerStatus) bool { return s.ContainerID != "" }
	return slices.ContainsFunc(pod.Status.InitContainerStatuses, made) || slices.ContainsFunc(pod.Status.ContainerStatuses, made)
}

// bound restricts a list to pods that are bound to a Node.
func bound(options *metav1.ListOptions) {
	options.FieldSelector = boundSelector
}

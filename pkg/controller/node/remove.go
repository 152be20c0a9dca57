package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

const (
	// drainTime is how long the pods of a Node that is to be removed may take to end, all together.
	drainTime = 30 * time.Second
	// forceTime is how long after that those may take to be gone that are deleted by force.
	forceTime = 5 * time.Second
	// drainPoll is how often they are looked at.
	drainPoll = 500 * time.Millisecond
	// orphanWait is how long after an EdgeDevice a Node is looked for that it has left behind: that of one with its
	// finalizer went before it, and the informer is about to tell.
	orphanWait = 2 * time.Second
)

// retire removes the Node of a device that is not to have one any more.
func (c *Controller) retire(ctx context.Context, ed *aranya.EdgeDevice, n *corev1.Node, connected bool) (time.Duration, error) {
	if n == nil || !Owned(n, ed) {
		return 0, nil
	}
	again, err := c.Drain(ctx, n, connected)
	if err != nil || again > 0 {
		return again, err
	}
	if err := c.Delete(ctx, n); err != nil {
		return 0, err
	}
	c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeNormal, "NodeDeleted", "Deleted Node %s, because spec.node.disabled is set", n.Name)
	return 0, nil
}

// removeOrphan removes the Node that an EdgeDevice has left behind, which went without its finalizer: nobody else
// would. Its pods go by force, because its link is cut. That memory knows of no EdgeDevice is not enough, nor is a
// database that was empty at this start or a former one: pods keep running while it is restored.
func (c *Controller) removeOrphan(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	n, err := c.get(key.Name)
	if err != nil || n == nil {
		return 0, err
	}
	if owner, ok := Owner(n); !ok || links.Key(owner) != key {
		return 0, nil
	}
	if left, err := c.keepLeft(ctx, n); left || err != nil {
		return 0, err
	}
	_, err = c.config.Edge.AranyaV1alpha1().EdgeDevices(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err == nil {
		return 0, nil // the informer is about to tell
	}
	if !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("read EdgeDevice %s: %w", key, err)
	}
	if _, begun := removingSince(n); !begun {
		klog.FromContext(ctx).Info("Removing the Node of an EdgeDevice that went without its finalizer", "edgeDevice", key)
		owner, _ := Owner(n)
		c.config.Events.Node(n.Name, corev1.EventTypeWarning, "RemovingNode", "The Node is removed with its pods, because EdgeDevice %s (UID %s), which it stands for, "+
			"does not exist: it went without its finalizer, or a backup was restored that is older", key, owner.UID)
	}
	if again, err := c.Drain(ctx, n, false); err != nil || again > 0 {
		return again, err
	}
	return 0, c.Delete(ctx, n)
}

// keepLeft says whether a Node is to be left though its EdgeDevice does not exist, and puts that on the Node.
func (c *Controller) keepLeft(ctx context.Context, n *corev1.Node) (bool, error) {
	if !Left(n) {
		if !c.emptyAtStart || !n.CreationTimestamp.Time.Before(c.start) {
			return false, nil
		}
		data, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": n.UID, "annotations": map[string]any{aranya.AnnotationMissing: c.config.Clock.Now().UTC().Format(time.RFC3339)},
		}})
		if err != nil {
			return false, err
		}
		written, err := c.config.Kube.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, data, metav1.PatchOptions{})
		if err != nil {
			return false, fmt.Errorf("annotate Node %s: %w", n.Name, err)
		}
		c.written.Mutation(written)
	}
	owner, _ := Owner(n)
	c.config.Events.Node(n.Name, corev1.EventTypeWarning, "EdgeDeviceMissing", "EdgeDevice %s (UID %s), which the Node stands for, does not exist. "+
		"The Node is left, because there was no EdgeDevice at all when aranya started: restore its database, or delete the Node", links.Key(owner), owner.UID)
	return true, nil
}

// Drain deletes the pods on a Node that is to be removed. On a connected device they get up to 30 s to
// end, all together; otherwise, and after that time, they are deleted by force, as is at once what only shows
// a static pod. As long as there are some it returns when to call it again, but for no more than some seconds after
// that time. Pods that were made since it began go after the Node, see Delete: who has made them would make others.
func (c *Controller) Drain(ctx context.Context, n *corev1.Node, connected bool) (again time.Duration, err error) {
	pods := c.remaining(n)
	if len(pods) == 0 {
		return 0, nil
	}
	since, marked := removingSince(n)
	if !marked {
		if since, err = c.markRemoving(ctx, n); err != nil {
			return 0, err
		}
		if owner, ok := Owner(n); ok && connected {
			c.config.Events.Device(owner, corev1.EventTypeNormal, "NodeDraining",
				"Node %s is removed when its pods have ended, of which there are %d; they are deleted by force after %s", n.Name, len(pods), drainTime)
		}
	}
	left := drainTime - c.config.Clock.Since(since)
	if left <= -forceTime {
		klog.FromContext(ctx).Info("Pods are left on a Node that is removed", "node", klog.KObj(n), "pods", len(pods))
		return 0, nil
	}
	var errs []error
	for _, pod := range pods {
		grace := int64(0)
		switch {
		case !connected || left <= 0 || staticpod.IsMirror(pod):
		case pod.DeletionTimestamp != nil && ptr.Deref(pod.DeletionGracePeriodSeconds, 0) <= int64(drainTime/time.Second):
			continue
		default:
			grace = ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
			grace = max(1, min(grace, int64(left/time.Second)))
		}
		errs = append(errs, c.deletePod(ctx, pod, grace))
	}
	return drainPoll, errors.Join(errs...)
}

func (c *Controller) deletePod(ctx context.Context, pod *corev1.Pod, grace int64) error {
	err := c.config.Kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// remaining returns the pods that the removal of a Node waits for: those that were there when it began, if it has.
func (c *Controller) remaining(n *corev1.Node) []*corev1.Pod {
	since, marked := removingSince(n)
	return slices.DeleteFunc(c.podsOn(n.Name), func(pod *corev1.Pod) bool { return marked && pod.CreationTimestamp.After(since) })
}

// podsOn returns the pods on a Node, but not those that only somebody else's finalizer keeps.
func (c *Controller) podsOn(nodeName string) []*corev1.Pod {
	found, err := c.config.Pods.ByIndex(PodIndex, nodeName)
	if err != nil {
		return nil
	}
	var pods []*corev1.Pod
	for _, object := range found {
		pod := object.(*corev1.Pod)
		if len(pod.Finalizers) > 0 && pod.DeletionTimestamp != nil && ptr.Deref(pod.DeletionGracePeriodSeconds, 1) == 0 {
			continue
		}
		pods = append(pods, pod)
	}
	return pods
}

// removingSince says since when a Node is being removed, false if it is not.
func removingSince(n *corev1.Node) (time.Time, bool) {
	for _, t := range n.Spec.Taints {
		if t.Key == aranya.TaintRemoving && t.Effect == corev1.TaintEffectNoSchedule && t.TimeAdded != nil {
			return t.TimeAdded.Time, true
		}
	}
	return time.Time{}, false
}

// markRemoving puts a taint on the Node that says since when it is being removed. It also keeps new pods off, but
// for those that tolerate every taint.
func (c *Controller) markRemoving(ctx context.Context, n *corev1.Node) (time.Time, error) {
	now := metav1.NewTime(c.config.Clock.Now())
	taint := corev1.Taint{Key: aranya.TaintRemoving, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &now}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": n.UID, "resourceVersion": n.ResourceVersion},
		"spec":     map[string]any{"taints": append(withoutTaints(n.Spec.Taints, sets.New(removingTaints...)), taint)},
	})
	if err != nil {
		return time.Time{}, err
	}
	written, err := c.config.Kube.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("taint Node %s: %w", n.Name, err)
	}
	c.written.Mutation(written)
	return now.Time, nil
}

// leave ends the renewals of the Lease of a device that is being deleted, unless pods are still to end on its Node,
// which stays Ready for them. Its turn may come before the Node's end: to create or renew it would be in vain.
func (c *Controller) leave(ed *aranya.EdgeDevice) error {
	n, err := c.get(ed.Name)
	switch {
	case err != nil:
		return err
	case n == nil || !Owned(n, ed):
		c.leases.stop(ed.Name, ed.UID)
	case len(c.remaining(n)) == 0:
		c.leases.leave(n)
	}
	return nil
}

// Delete deletes a Node that was drained, and its Lease. The pods that are there still go after it, by force: as long
// as there was a Node, who made them would have made others, and without one they would be left Terminating until
// garbage collection comes, which has those that cannot be deleted here.
func (c *Controller) Delete(ctx context.Context, n *corev1.Node) error {
	if err := c.deleteNode(ctx, n); err != nil {
		return err
	}
	for _, pod := range c.podsOn(n.Name) {
		if err := c.deletePod(ctx, pod, 0); err != nil {
			klog.FromContext(ctx).Error(err, "A pod is left to garbage collection, because its Node is gone", "node", klog.KObj(n))
		}
	}
	return nil
}

// deleteNode deletes a Node and its Lease, without waiting for garbage collection. The Lease goes first, if it is
// known to be the Node's: garbage collection would ask for each one whose Node is gone.
func (c *Controller) deleteNode(ctx context.Context, n *corev1.Node) error {
	released, err := c.leases.release(ctx, n)
	if err != nil {
		return err
	}
	err = c.config.Kube.CoreV1().Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(n.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Node %s: %w", n.Name, err)
	}
	if !released {
		if err := c.leases.delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	klog.FromContext(ctx).Info("Deleted the Node", "node", klog.KObj(n))
	return nil
}

// Of returns the Node of an EdgeDevice that is known to be being deleted, nil if it has none. It fails while the
// Node is being created. What memory does not know of is asked of the cluster: it may have been created just now.
func (c *Controller) Of(ctx context.Context, ed *aranya.EdgeDevice) (*corev1.Node, error) {
	c.mu.Lock()
	creating := c.creating.Has(ed.UID)
	c.mu.Unlock()
	if creating {
		return nil, fmt.Errorf("the Node of EdgeDevice %s is being created", ed.Name)
	}
	n, err := c.get(ed.Name)
	if n == nil && err == nil {
		n, err = c.config.Kube.CoreV1().Nodes().Get(ctx, ed.Name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Node %s: %w", ed.Name, err)
	}
	if !Owned(n, ed) {
		return nil, nil
	}
	return n, nil
}

// PodIndex is the name of the index of the pod informer by Node.
const PodIndex = "spec.nodeName"

// IndexPod is its function.
func IndexPod(object any) ([]string, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return nil, nil
	}
	return []string{pod.Spec.NodeName}, nil
}

var _ cache.IndexFunc = IndexPod

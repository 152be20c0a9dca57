package pod

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/controller/node"
	"arhat.dev/aranya/pkg/edge/gateway"
)

const (
	// absentAfter is how long a device may be away until its pods are not ready any more. It is about as
	// long as controller-manager would wait: short losses should not move Endpoints about.
	absentAfter = 40 * time.Second
	// absentAgain is how often to look whether the Node of a device that is away was given up.
	absentAgain = 5 * time.Second
)

// syncAbsent sets the pods of a device that stays away to not ready, once, so that Services and
// Deployments do not count on them. Controller-manager does that when it finds a Node unknown itself,
// but it does not when the Node was set to Unknown already, as aranya does at once. The device reports
// anew when it is back.
func (c *Controller) syncAbsent(ctx context.Context, device gateway.Device) (time.Duration, error) {
	lost := c.lostAt(device)
	owner, ok := c.config.Owner(device.Name)
	if !ok || owner != device || c.state(device) != nil {
		c.forgetLoss(device, lost)
		return 0, nil
	}
	if left := absentAfter - c.config.Clock.Since(lost); left > 0 {
		return left, nil // it was back since its link was lost before
	}
	if object, exists, err := c.config.Nodes.GetIndexer().GetByKey(device.Name); err == nil && exists && !unknown(object.(*corev1.Node)) {
		return absentAgain, nil // many are away, and are waited for longer
	}
	now := metav1.NewTime(c.config.Clock.Now())
	var errs []error
	for _, pod := range OnNode(c.indexer, device.Name) {
		ready := findCondition(pod.Status.Conditions, corev1.PodReady)
		if ready == nil || ready.Status != corev1.ConditionTrue {
			continue
		}
		status := pod.Status.DeepCopy()
		ready = findCondition(status.Conditions, corev1.PodReady)
		ready.Status, ready.LastTransitionTime = corev1.ConditionFalse, now
		ready.Reason, ready.Message = "NodeNotReady", "The device is not connected"
		_, err := c.write(ctx, pod, status)
		errs = append(errs, err)
		if err == nil {
			c.config.Events.Pod(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		}
	}
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	c.forgetLoss(device, lost)
	return 0, nil
}

// nodeUnknown has the pods of a device looked at that has had no link since aranya was started: nobody
// tells of its loss.
func (c *Controller) nodeUnknown(n *corev1.Node) {
	if device, ok := node.Owner(n); ok && unknown(n) && c.state(device) == nil {
		c.absent.Add(device)
	}
}

// lostAt is when the device lost its last link, if nothing was done about that yet. A device without one
// is away since the start.
func (c *Controller) lostAt(device gateway.Device) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.lost[device]; ok {
		return at
	}
	return c.start
}

// forgetLoss drops a loss about which nothing is left to do, unless there has been another since.
func (c *Controller) forgetLoss(device gateway.Device, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost[device].Equal(at) {
		delete(c.lost, device)
		if !slices.ContainsFunc(c.states[device.Name], func(st *state) bool { return st.session.Device() == device }) {
			delete(c.spent, device)
		}
	}
}

// unknown says whether it is known only that the device of a Node is away.
func unknown(n *corev1.Node) bool {
	ready := node.Ready(n)
	return ready != nil && ready.Status == corev1.ConditionUnknown
}

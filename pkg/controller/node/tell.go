package node

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// tellReboot records that the machine behind a Node has started anew, as the kubelet does.
func (c *Controller) tellReboot(before, after *corev1.Node) {
	was, is := before.Status.NodeInfo.BootID, after.Status.NodeInfo.BootID
	device, ok := Owner(after)
	if !ok || was == "" || is == "" || was == is {
		return
	}
	c.config.Events.FromDevice(device, after.Name, nil, &edgeapi.Event{
		Type: corev1.EventTypeWarning, Reason: "Rebooted", Message: fmt.Sprintf("Node %s has been rebooted, boot id: %s", after.Name, is),
	})
}

// tellReady records that a Node is not ready any more, or is again, as the kubelet and controller-manager do: these find
// it done already. Of a new Node, which is ready from the start, nothing is told: thousands may come at once.
func (c *Controller) tellReady(before, after *corev1.Node) {
	was, is := Ready(before), Ready(after)
	if was == nil || is == nil || isReady(&before.Status) == isReady(&after.Status) {
		return
	}
	reason := "NodeReady"
	if is.Status != corev1.ConditionTrue {
		reason = "NodeNotReady"
	}
	c.config.Events.Node(after.Name, corev1.EventTypeNormal, reason, "Node %s status is now: %s", after.Name, reason)
}

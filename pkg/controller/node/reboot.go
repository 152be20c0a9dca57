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

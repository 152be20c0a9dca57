package controller

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

// TestReboot has a device come back, first as it was but for its kernel's version, then after its machine has started
// anew.
func TestReboot(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed)
	for _, info := range []corev1.NodeSystemInfo{{BootID: "one", KernelVersion: "6.1.0"}, {BootID: "one", KernelVersion: "6.1.1"}, {BootID: "two", KernelVersion: "6.1.1"}} {
		status := corev1.NodeStatus{NodeInfo: info}
		data, err := status.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		s := newSession(ed)
		s.hello.NodeStatus = &edgeapi.NodeStatus{Status: data}
		c.connect(s)
		eventually.Holds(t, "status written", func() bool {
			n := c.node("d1")
			return n != nil && n.Status.NodeInfo.BootID == info.BootID && n.Status.NodeInfo.KernelVersion == info.KernelVersion
		})
		c.cut(s, "gone")
	}
	for _, kind := range []string{"Node", "EdgeDevice"} {
		eventually.Holds(t, "told on the "+kind, func() bool { return slices.Contains(c.events(kind, "d1"), "Rebooted") })
		if events := c.events(kind, "d1"); len(slices.DeleteFunc(events, func(e string) bool { return e != "Rebooted" })) != 1 {
			t.Errorf("events of the %s: %v", kind, events)
		}
	}
}

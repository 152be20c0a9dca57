package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/test/framework/eventually"
)

func TestLostLinkMakesNodeUnknown(t *testing.T) {
	ed := edgeDevice("d1")
	// Time goes on only while something is waited for: a link that was replaced must not count as lost
	// because this machine was slow.
	clock := clocktesting.NewFakeClock(time.Now())
	c := newClusterAt(t, clock, time.Hour, ed)
	stepping := func(t *testing.T, what string, holds func() bool) {
		t.Helper()
		eventually.Holds(t, what, func() bool { clock.Step(100 * time.Millisecond); return holds() })
	}
	s := c.connect(newSession(ed))
	stepping(t, "Node ready", func() bool { return c.ready("d1") == corev1.ConditionTrue })

	// A link that is replaced is no loss, whichever call comes first.
	s2 := c.connect(newSession(ed))
	c.cut(s, "replaced")
	s3 := newSession(ed)
	c.cut(s2, "replaced")
	c.connect(s3)
	stepping(t, "still online", func() bool { return c.device("d1").Status.Phase == aranya.EdgeDeviceOnline })
	c.cut(s3, "connection reset by peer")
	stepping(t, "Node unknown", func() bool { return c.ready("d1") == corev1.ConditionUnknown })
	stepping(t, "device offline", func() bool {
		status := c.device("d1").Status
		connected := meta.FindStatusCondition(status.Conditions, aranya.EdgeDeviceConnected)
		return status.Phase == aranya.EdgeDeviceOffline && connected.Status == metav1.ConditionFalse &&
			strings.Contains(connected.Message, "connection reset by peer") &&
			meta.FindStatusCondition(status.Conditions, aranya.EdgeDeviceNodeReady).Status == metav1.ConditionUnknown
	})
	c.connect(newSession(ed))
	stepping(t, "Node ready again", func() bool { return c.ready("d1") == corev1.ConditionTrue })
	writes := 0
	for _, a := range c.kube.Actions() {
		if a.GetVerb() == "patch" && a.GetSubresource() == "status" && a.GetResource().Resource == "nodes" {
			writes++
		}
	}
	if writes != 2 {
		t.Errorf("the status of the Node was written %d times, want 2: gone and back", writes)
	}
}

// describe tells actions as a person wants to read them.
func describe(actions []clienttesting.Action) string {
	var lines []string
	for _, a := range actions {
		line := a.GetVerb() + " " + a.GetResource().Resource + " " + a.GetSubresource()
		if patch, ok := a.(clienttesting.PatchAction); ok {
			line += " " + patch.GetName() + ": " + string(patch.GetPatch())
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// TestManyLostLinks has all links of some devices cut at once: nothing is written unless they stay away.
func TestManyLostLinks(t *testing.T) {
	const (
		devices = 15
		settled = 300 * time.Millisecond // longer than a write waits for others
	)
	clock := clocktesting.NewFakeClock(time.Now())
	var objects []runtime.Object
	for i := range devices {
		objects = append(objects, edgeDevice(fmt.Sprintf("d%d", i)))
	}
	c := newClusterAt(t, clock, time.Minute, objects...)
	all := func(what string, holds func(name string) bool) {
		t.Helper()
		eventually.Holds(t, what, func() bool {
			clock.Step(10 * time.Millisecond)
			for i := range devices {
				if !holds(fmt.Sprintf("d%d", i)) {
					return false
				}
			}
			return true
		})
	}
	connect := func() (sessions []*session) {
		for _, o := range objects {
			sessions = append(sessions, c.connect(newSession(o.(*aranya.EdgeDevice))))
		}
		return sessions
	}
	online := func(name string) bool {
		return c.ready(name) == corev1.ConditionTrue && meta.IsStatusConditionTrue(c.device(name).Status.Conditions, aranya.EdgeDeviceNodeReady)
	}
	sessions := connect()
	all("online", online)
	for range 20 { // what the first links have led to is over
		clock.Step(settled)
		time.Sleep(time.Millisecond)
	}
	kube, edge := len(writesOf(c.kube.Actions(), "nodes")), len(writesOf(c.edge.Actions(), "edgedevices"))

	for _, s := range sessions {
		c.cut(s, "connection reset by peer")
	}
	for range 55 {
		clock.Step(time.Second)
		time.Sleep(time.Millisecond)
	}
	all("still online", online)
	sessions = connect()
	for range 10 {
		clock.Step(time.Second)
		time.Sleep(time.Millisecond)
	}
	all("online again", online)
	if got := writesOf(c.kube.Actions(), "nodes")[kube:]; len(got) > 0 {
		t.Errorf("writes to Nodes: %s", describe(got))
	}
	if got := writesOf(c.edge.Actions(), "edgedevices")[edge:]; len(got) > 0 {
		t.Errorf("writes to EdgeDevices: %s", describe(got))
	}
	if got := c.events("EdgeDevice", "d0"); slices.Contains(got, "Disconnected") {
		t.Errorf("events: %v", got)
	}

	// Those that stay away are told in the end.
	for _, s := range sessions {
		c.cut(s, "connection reset by peer")
	}
	clock.Step(59 * time.Second)
	all("told", func(name string) bool {
		return c.ready(name) == corev1.ConditionUnknown && c.device(name).Status.Phase == aranya.EdgeDeviceOffline &&
			slices.Contains(c.events("EdgeDevice", name), "Disconnected")
	})
}

// Two machines that use one identity are told of in one event, whichever has taken the link from the other.
func TestIdentityInUse(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed)
	device := c.connect(newSession(ed)).device
	eventually.Holds(t, "Node", func() bool { return c.node("d1") != nil })
	one, other := gateway.Machine{Address: "198.51.100.9:1", BootID: "b1"}, gateway.Machine{Address: "192.0.2.7:2", BootID: "b2"}
	c.controllers.IdentityInUse(device, one, other)
	other.Address = "192.0.2.7:3"
	c.controllers.IdentityInUse(device, other, one)
	var event *corev1.Event
	eventually.Holds(t, "told twice in one event", func() bool {
		list, err := c.kube.CoreV1().Events("edge").List(c.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			if list.Items[i].Reason == "IdentityInUse" {
				event = &list.Items[i]
			}
		}
		return event != nil && event.Count == 2
	})
	if event.Type != corev1.EventTypeWarning || event.Reason != "IdentityInUse" || event.InvolvedObject.UID != ed.UID ||
		!strings.Contains(event.Message, "192.0.2.7 (boot ID b2)") || !strings.Contains(event.Message, "198.51.100.9 (boot ID b1)") ||
		!strings.Contains(event.Message, "kubectl edge token d1 -n edge") {
		t.Errorf("event: %s", event)
	}
}

// A machine that is refused is told of on the EdgeDevice that has the name now, if there is one.
func TestRefused(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed)
	eventually.Holds(t, "status", func() bool { return c.device("d1").Status.Phase == aranya.EdgeDeviceOffline })
	former := gateway.Device{Namespace: "edge", Name: "d1", UID: "former"}
	c.controllers.Refused(gateway.Device{Namespace: "edge", Name: "gone", UID: "gone"}, "192.0.2.7:1", "it does not exist")
	c.controllers.Refused(former, "192.0.2.7:2", "it belongs to the former one")
	var refused []corev1.Event
	eventually.Holds(t, "an event", func() bool {
		list, err := c.kube.CoreV1().Events("edge").List(c.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		refused = slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return e.Reason != "DeviceRefused" })
		return len(refused) > 0
	})
	if e := refused[0]; len(refused) > 1 || e.Type != corev1.EventTypeWarning || e.InvolvedObject.UID != ed.UID ||
		e.Message != "Refused the machine at 192.0.2.7 as this device: it belongs to the former one" {
		t.Errorf("events: %v", refused)
	}
}

// writesOf are the writes of a resource among some actions.
func writesOf(actions []clienttesting.Action, resource string) (writes []clienttesting.Action) {
	for _, a := range actions {
		if a.GetResource().Resource == resource && !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			writes = append(writes, a)
		}
	}
	return writes
}

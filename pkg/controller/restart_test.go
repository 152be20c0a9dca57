package controller

import (
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/test/framework/eventually"
)

// TestStoppingWritesNobodyOff has the timers of former losses go off while aranya ends the sessions of its devices.
func TestStoppingWritesNobodyOff(t *testing.T) {
	const grace = time.Minute
	ed := edgeDevice("d1")
	clock := clocktesting.NewFakeClock(time.Now())
	c := newClusterAt(t, clock, grace, ed)
	online := func() bool {
		return c.ready("d1") == corev1.ConditionTrue && meta.IsStatusConditionTrue(c.device("d1").Status.Conditions, aranya.EdgeDeviceNodeReady)
	}
	s := c.connect(newSession(ed))
	eventually.Holds(t, "online", func() bool { clock.Step(100 * time.Millisecond); return online() })
	for range 20 { // all is written, and the time to come back after the start is over
		clock.Step(grace / 10)
		time.Sleep(time.Millisecond)
	}
	nodes, devices := len(writesOf(c.kube.Actions(), "nodes")), len(writesOf(c.edge.Actions(), "edgedevices"))

	c.cut(s, "connection reset by peer")
	s = c.connect(newSession(ed))
	c.controllers.Handler().SessionEnded(s, fmt.Errorf("replica r1 %w", gateway.ErrStopping))
	for range 50 {
		clock.Step(100 * time.Millisecond)
		time.Sleep(time.Millisecond)
	}
	if got := writesOf(c.kube.Actions(), "nodes")[nodes:]; len(got) > 0 {
		t.Errorf("writes to Nodes: %s", describe(got))
	}
	if got := writesOf(c.edge.Actions(), "edgedevices")[devices:]; len(got) > 0 {
		t.Errorf("writes to EdgeDevices: %s", describe(got))
	}
}

// Devices can connect once aranya knows which there are, which may take longer than they have to come back.
func TestDevicesThatDoNotComeBackAfterRestart(t *testing.T) {
	const podsReady = 40 * time.Second // stay so for longer than a device has here
	for name, tt := range map[string]struct{ sync, grace time.Duration }{
		"at once":                  {grace: time.Minute},
		"informers that sync late": {sync: 2 * time.Minute, grace: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("d1")
			ed.Status.Phase = aranya.EdgeDeviceOnline
			meta.SetStatusCondition(&ed.Status.Conditions, metav1.Condition{Type: aranya.EdgeDeviceConnected, Status: metav1.ConditionTrue, Reason: "LinkUp"})
			clock := clocktesting.NewFakeClock(time.Now().Truncate(time.Second)) // as precise as what is stored
			c := buildCluster(t, clock, tt.grace, ed, ownNode(ed), edgePod("p", "d1", func(p *corev1.Pod) { p.Status = running() }))
			clock.Step(tt.sync)
			start := clock.Now()
			c.run()
			pod := func() corev1.PodCondition { return c.pod("p").Status.Conditions[0] }
			node := func() corev1.NodeCondition { return c.node("d1").Status.Conditions[0] }
			eventually.Holds(t, "Node adjusted", func() bool { return c.node("d1").Labels[aranya.LabelRole] != "" })
			clock.Step(tt.grace - time.Second)
			eventually.Holds(t, "given up", func() bool {
				clock.Step(time.Second)
				return node().Status == corev1.ConditionUnknown && c.device("d1").Status.Phase == aranya.EdgeDeviceOffline && pod().Status == corev1.ConditionFalse
			})
			connected := meta.FindStatusCondition(c.device("d1").Status.Conditions, aranya.EdgeDeviceConnected)
			for what, tt := range map[string]struct {
				at    metav1.Time
				after time.Duration
			}{
				"device": {connected.LastTransitionTime, tt.grace}, "Node": {node().LastTransitionTime, tt.grace}, "pod": {pod().LastTransitionTime, max(tt.grace, podsReady)},
			} {
				if after := tt.at.Sub(start); after < tt.after {
					t.Errorf("%s given up %s after the start, want %s at least", what, after, tt.after)
				}
			}
		})
	}
}

// What is stored of a connected device is as old as the last change of its status. Its Lease was renewed until aranya
// ended.
func TestLastSeenBeforeARestart(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now().Truncate(time.Second))
	renewed := clock.Now().Add(-2 * time.Minute)
	lease := func(node types.UID) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "d1", OwnerReferences: []metav1.OwnerReference{{UID: node}}},
			Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}},
		}
	}
	stored := clock.Now().Add(-21 * 24 * time.Hour)
	ed := edgeDevice("d1")
	ed.Status.Phase, ed.Status.LastSeen = aranya.EdgeDeviceOnline, &metav1.Time{Time: stored}
	meta.SetStatusCondition(&ed.Status.Conditions, metav1.Condition{Type: aranya.EdgeDeviceConnected, Status: metav1.ConditionTrue, Reason: aranya.ReasonConnected})
	for name, tt := range map[string]struct {
		objects []runtime.Object
		want    time.Time
	}{
		"by its Lease":               {[]runtime.Object{ownNode(ed), lease(ownNode(ed).UID)}, renewed},
		"the Lease of a former Node": {[]runtime.Object{ownNode(ed), lease("former")}, stored},
		"no Node":                    {nil, stored},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakeClock(clock.Now())
			c := newClusterAt(t, clock, time.Minute, append(tt.objects, ed.DeepCopy())...)
			eventually.Holds(t, "known while it may come back", func() bool { return c.controllers.LastSeen("edge", "d1").Equal(tt.want) })
			eventually.Holds(t, "given up", func() bool {
				clock.Step(time.Second)
				return c.device("d1").Status.Phase == aranya.EdgeDeviceOffline
			})
			if seen := c.device("d1").Status.LastSeen; seen == nil || !seen.Time.Equal(tt.want) {
				t.Errorf("stored as seen at %v, want %v", seen, tt.want)
			}
			eventually.Holds(t, "known afterwards", func() bool { return c.controllers.LastSeen("edge", "d1").Equal(tt.want) })
		})
	}
}

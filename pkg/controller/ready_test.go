package controller

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

// TestEventsOfReadiness has a device come, go and come back.
func TestEventsOfReadiness(t *testing.T) {
	ed := edgeDevice("d1")
	clock := clocktesting.NewFakeClock(time.Now())
	c := newClusterAt(t, clock, time.Minute, ed, edgePod("p", "d1"))
	told := func(kind, name, reason string) (n int) {
		for _, e := range c.events(kind, name) {
			if e == reason {
				n++
			}
		}
		return n
	}
	stepUntil := func(what string, done func() bool) {
		t.Helper()
		eventually.Holds(t, what, func() bool { clock.Step(time.Second); return done() })
	}
	s := c.connect(newSession(ed))
	stepUntil("Node", func() bool { return c.ready("d1") == corev1.ConditionTrue && len(s.runs()) == 1 })
	c.report(s, c.pod("p"), running())
	stepUntil("pod runs", func() bool { return c.pod("p").Status.Phase == corev1.PodRunning })
	c.cut(s, "gone")
	stepUntil("the Node's event", func() bool { return told("Node", "d1", "NodeNotReady") > 0 })
	stepUntil("the pod's event", func() bool { return told("Pod", "p", "NodeNotReady") > 0 })
	if told("Node", "d1", "NodeReady") > 0 {
		t.Error("a new Node cost one more event")
	}
	c.connect(newSession(ed))
	stepUntil("event of the return", func() bool { return told("Node", "d1", "NodeReady") > 0 })
	for _, tt := range [][3]string{{"Node", "d1", "NodeNotReady"}, {"Node", "d1", "NodeReady"}, {"Pod", "p", "NodeNotReady"}} {
		if got := told(tt[0], tt[1], tt[2]); got != 1 {
			t.Errorf("%s was told %d times on the %s", tt[2], got, tt[0])
		}
	}
}

// TestNoEventsOfReadinessAfterRestart has a device come back within its time after aranya was started anew.
func TestNoEventsOfReadinessAfterRestart(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, ownNode(ed))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "Node adjusted", func() bool { return len(s.desired()) > 0 && len(c.node("d1").Status.Addresses) > 0 })
	c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{
		Event: &edgeapi.Event{Type: "Normal", Reason: "Last", Message: "events of one type are written in turn"},
	}})
	eventually.Holds(t, "last event", func() bool { return slices.Contains(c.events("Node", "d1"), "Last") })
	for _, e := range c.events("Node", "d1") {
		if e == "NodeReady" || e == "NodeNotReady" {
			t.Errorf("the Node has an event %s", e)
		}
	}
}

package controller

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
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
	eventually(t, "online", func() bool { clock.Step(100 * time.Millisecond); return online() })
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

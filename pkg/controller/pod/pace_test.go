package pod

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"arhat.dev/aranya/pkg/edge/gateway"
)

// What a device reports costs time also if it changes nothing.
func TestPaceOfReportsThatChangeNothing(t *testing.T) {
	device := gateway.Device{Namespace: "edge", Name: "d", UID: "u"}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p"}, Spec: corev1.PodSpec{NodeName: "d"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodScheduled, corev1.ConditionTrue, 1)}},
	}
	for name, status := range map[string][]byte{
		"the same":    encode(t, corev1.PodStatus{Phase: corev1.PodRunning}),
		"undecodable": {0xff},
	} {
		t.Run(name, func(t *testing.T) {
			c := newStates(t)
			c.config.Owner = func(string) (gateway.Device, bool) { return device, true }
			if err := c.indexer.Add(pod); err != nil {
				t.Fatal(err)
			}
			c.LinkUp(link{device: device})
			look := func(want time.Duration) {
				t.Helper()
				if again, err := c.syncStatus(t.Context(), keyOf(pod)); err != nil || again != want {
					t.Errorf("look again after %s (%v), want %s", again, err, want)
				}
			}
			for i := range podPace.Burst {
				c.reported(c.state(device), pod.UID, status)
				look(0)
				if i == 0 {
					look(0) // the pod has changed in the cluster, which costs the device nothing
				}
			}
			c.reported(c.state(device), pod.UID, status)
			look(podPace.Every)
			c.config.Clock.(*clocktesting.FakeClock).Step(podPace.Every)
			look(0)
		})
	}
}

func encode(t *testing.T, status corev1.PodStatus) []byte {
	t.Helper()
	data, err := status.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

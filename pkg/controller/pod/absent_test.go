package pod

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/links"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// link is a session of which only the device is asked.
type link struct {
	gateway.Session
	device gateway.Device
}

func (l link) Device() gateway.Device { return l.device }
func (l link) Hello() *edgeapi.Hello  { return &edgeapi.Hello{} }

func TestAbsent(t *testing.T) {
	device := gateway.Device{Namespace: "edge", Name: "d", UID: "u"}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p"}, Spec: corev1.PodSpec{NodeName: "d"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 1)}},
	}
	client := fake.NewClientset(pod)
	clock := clocktesting.NewFakeClock(time.Unix(1000, 0))
	nodes := informers.NewSharedInformerFactory(client, 0).Core().V1().Nodes().Informer()
	c, err := New(t.Context(), Config{
		Kube: client, Pods: NewInformer(client), Nodes: nodes, Devices: edgeDevices(), Clock: clock, Events: events.New(t.Context()),
		Owner: func(string) (gateway.Device, bool) { return device, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.objects.Close()
	defer c.bundles.Close()
	if err := c.indexer.Add(pod); err != nil {
		t.Fatal(err)
	}
	check := func(after, wantAgain time.Duration, wantReady corev1.ConditionStatus) {
		t.Helper()
		clock.Step(after)
		again, err := c.syncAbsent(t.Context(), device)
		if err != nil || again != wantAgain {
			t.Errorf("look again after %s (%v), want %s", again, err, wantAgain)
		}
		now, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if ready := findCondition(now.Status.Conditions, corev1.PodReady); ready.Status != wantReady {
			t.Errorf("ready is %s (%s), want %s", ready.Status, ready.Reason, wantReady)
		}
	}
	c.LinkDown(device, links.Loss{})
	check(10*time.Second, absentAfter-10*time.Second, corev1.ConditionTrue)
	c.LinkUp(link{device: device})
	check(absentAfter-20*time.Second, 0, corev1.ConditionTrue)
	// Due for the first loss, it is found away for a moment only.
	c.LinkDown(device, links.Loss{})
	check(10*time.Second, absentAfter-10*time.Second, corev1.ConditionTrue)
	check(absentAfter-10*time.Second, 0, corev1.ConditionFalse)
	if len(c.lost) != 0 {
		t.Errorf("remembered: %v", c.lost)
	}
}

// TestAwaySinceTheStart has Nodes of devices that have had no link since aranya was started.
func TestAwaySinceTheStart(t *testing.T) {
	device := gateway.Device{Namespace: "edge", Name: "d", UID: "u"}
	aNode := func(ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{
				Name: "d", Labels: map[string]string{aranya.LabelNamespace: "edge", aranya.LabelName: "d"},
				Annotations: map[string]string{aranya.AnnotationUID: "u"},
			},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
		}
	}
	foreign := aNode(corev1.ConditionUnknown)
	foreign.Annotations = nil
	for name, tt := range map[string]struct {
		before, now *corev1.Node
		linked      bool
		want        int
	}{
		"was unknown":     {now: aNode(corev1.ConditionUnknown), want: 1},
		"becomes unknown": {before: aNode(corev1.ConditionTrue), now: aNode(corev1.ConditionUnknown), want: 1},
		"stays unknown":   {before: aNode(corev1.ConditionUnknown), now: aNode(corev1.ConditionUnknown)},
		"ready":           {now: aNode(corev1.ConditionTrue)},
		"connected":       {now: aNode(corev1.ConditionUnknown), linked: true},
		"foreign":         {now: foreign},
	} {
		t.Run(name, func(t *testing.T) {
			c := newStates(t)
			if tt.linked {
				c.LinkUp(link{device: device})
			}
			if tt.before == nil {
				c.nodeHandler().OnAdd(tt.now, true)
			} else {
				c.nodeHandler().OnUpdate(tt.before, tt.now)
			}
			if got := c.absent.Len(); got != tt.want {
				t.Errorf("%d devices are looked at, want %d", got, tt.want)
			}
		})
	}
	c := newStates(t)
	c.config.Owner = func(string) (gateway.Device, bool) { return device, true }
	if again, err := c.syncAbsent(t.Context(), device); err != nil || again != absentAfter {
		t.Errorf("look again after %s (%v), want %s from the start", again, err, absentAfter)
	}
}

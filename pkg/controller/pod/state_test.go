package pod

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"

	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/edge/gateway"
	edgefake "arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	"arhat.dev/aranya/pkg/generated/informers/externalversions"
)

func newStates(t testing.TB) *Controller {
	t.Helper()
	client := fake.NewClientset()
	nodes := informers.NewSharedInformerFactory(client, 0).Core().V1().Nodes().Informer()
	c, err := New(t.Context(), Config{
		Kube: client, Pods: NewInformer(client), Nodes: nodes, Devices: edgeDevices(), Clock: clocktesting.NewFakeClock(time.Unix(1000, 0)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.objects.Close)
	t.Cleanup(c.bundles.Close)
	return c
}

// edgeDevices is an informer that knows of none.
func edgeDevices() cache.SharedIndexInformer {
	return externalversions.NewSharedInformerFactory(edgefake.NewClientset(), 0).Aranya().V1alpha1().EdgeDevices().Informer()
}

// Devices of one name in several namespaces have a link each, and a device one at a time.
func TestStates(t *testing.T) {
	c := newStates(t)
	a := gateway.Device{Namespace: "a", Name: "d", UID: "1"}
	again := gateway.Device{Namespace: "a", Name: "d", UID: "2"}
	b := gateway.Device{Namespace: "b", Name: "d", UID: "3"}
	other := gateway.Device{Namespace: "a", Name: "e", UID: "4"}
	up := func(d gateway.Device) func() { return func() { c.LinkUp(link{device: d}) } }
	down := func(d gateway.Device) func() { return func() { c.LinkDown(d, links.Loss{}) } }
	for i, step := range []struct {
		do   func()
		want []gateway.Device // with a link
	}{
		{func() {}, nil},
		{up(a), []gateway.Device{a}},
		{up(b), []gateway.Device{a, b}},
		{up(other), []gateway.Device{a, b, other}},
		{up(again), []gateway.Device{again, b, other}},
		{up(again), []gateway.Device{again, b, other}},
		{down(again), []gateway.Device{b, other}},
		{down(again), []gateway.Device{b, other}},
		{down(b), []gateway.Device{other}},
		{down(other), nil},
	} {
		step.do()
		got := map[gateway.Device]bool{}
		for _, d := range []gateway.Device{a, again, b, other} {
			if st := c.state(d); st != nil {
				got[st.session.Device()] = true
			}
		}
		named := len(c.statesNamed("d")) + len(c.statesNamed("e"))
		if len(got) != len(step.want) || named != len(step.want) {
			t.Errorf("step %d: links of %v, %d by name, want %v", i, got, named, step.want)
		}
		for _, d := range step.want {
			if !got[d] {
				t.Errorf("step %d: no link of %v", i, d)
			}
		}
	}
	if len(c.states) > 0 {
		t.Errorf("remembers %v", c.states)
	}
}

// BenchmarkNodeChanged measures what each event of a Node costs while many devices have a link.
func BenchmarkNodeChanged(b *testing.B) {
	c := newStates(b)
	for i := range 10_000 {
		c.LinkUp(link{device: gateway.Device{Namespace: "edge", Name: fmt.Sprintf("d%d", i), UID: "u"}})
	}
	for b.Loop() {
		c.nodeChanged("d5000")
	}
}

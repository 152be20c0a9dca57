package node

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// The Lease of a Node that is not the EdgeDevice's any more is neither renewed nor deleted.
func TestLeaseOfLostNode(t *testing.T) {
	foreign := func(r *rig) {
		r.see("6", func(n *corev1.Node) { n.UID, n.Labels, n.Annotations = "foreign", nil, nil })
	}
	away := func(r *rig) {
		r.config.Tracker.SessionEnded(r.config.Tracker.Session(links.Key(gateway.DeviceOf(r.ed)), r.ed.UID), context.Canceled)
	}
	gone := func(r *rig) {
		if err := r.nodes.Delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.ed.Name}}); err != nil {
			r.t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		happens []func(*rig)
		renewed bool
	}{
		"still its own":       {renewed: true},
		"without annotations": {happens: []func(*rig){func(r *rig) { r.see("6", func(n *corev1.Node) { n.Annotations = nil }) }}},
		"a foreign one":       {happens: []func(*rig){foreign}},
		"a foreign one while the EdgeDevice is deleted": {happens: []func(*rig){foreign, func(r *rig) {
			r.ed.DeletionTimestamp = &metav1.Time{Time: r.clock.Now()}
		}}},
		"gone while the device is away": {happens: []func(*rig){away, gone}},
		"gone while the EdgeDevice is deleted": {happens: []func(*rig){gone, func(r *rig) {
			r.ed.DeletionTimestamp = &metav1.Time{Time: r.clock.Now()}
		}}},
		// The other one's turn must not end what this one does.
		"another EdgeDevice of this name": {renewed: true, happens: []func(*rig){func(r *rig) {
			other := device(aranya.NodeSpec{})
			other.Namespace, other.UID = "elsewhere", "other"
			if err := r.config.Devices.GetIndexer().Add(other); err != nil {
				r.t.Fatal(err)
			}
			r.ed = other
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.config.Pods = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{PodIndex: IndexPod})
			r.expect("create")
			r.see("5", nil)
			r.census.seen(r.ed.Name)
			if _, _, err := r.sync(); err != nil {
				t.Fatal(err)
			}
			for _, happens := range test.happens {
				happens(r)
			}
			if _, _, err := r.sync(); err != nil {
				t.Fatal(err)
			}
			r.kube.ClearActions()
			r.clock.Step(time.Hour)
			if _, err := r.leases.renew(r.ctx, r.ed.Name); err != nil {
				t.Fatal(err)
			}
			if n := writes(r.kube); (n > 0) != test.renewed {
				t.Errorf("%d writes of the Lease", n)
			}
			for _, a := range r.kube.Actions() {
				if _, ok := a.(clienttesting.DeleteAction); ok {
					t.Errorf("deleted a %s", a.GetResource().Resource)
				}
			}
		})
	}
}

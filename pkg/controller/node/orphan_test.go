package node

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgefake "arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
)

// An EdgeDevice that goes without its finalizer takes its Node with it all the same, but not if only memory does
// not know of it, nor if the Node is another's.
func TestOrphan(t *testing.T) {
	for name, test := range map[string]struct {
		stored bool // the EdgeDevice is still there
		change func(*corev1.Node)
		gone   bool
	}{
		"its own":               {gone: true},
		"memory lags behind":    {stored: true},
		"of a device elsewhere": {change: func(n *corev1.Node) { n.Labels[aranya.LabelNamespace] = "elsewhere" }},
		"not aranya's":          {change: func(n *corev1.Node) { n.Annotations = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{PodIndex: IndexPod})
			r.config.Pods = pods
			r.expect("create")
			r.see("5", func(n *corev1.Node) { n.UID = r.leases.active[n.Name].node })
			st := r.leases.active[r.ed.Name]
			st.fresh = false
			if _, err := r.leases.renew(r.ctx, r.ed.Name); err != nil {
				t.Fatal(err)
			}
			r.see("6", test.change)
			if err := r.config.Devices.GetIndexer().Delete(r.ed); err != nil {
				t.Fatal(err)
			}
			if test.stored {
				if err := r.config.Edge.(*edgefake.Clientset).Tracker().Add(r.ed); err != nil {
					t.Fatal(err)
				}
			}
			verbs, _, err := r.sync()
			if err != nil || slices.Contains(verbs, "delete") != test.gone || !test.gone && len(verbs) > 0 {
				t.Errorf("did %v, error %v", verbs, err)
			}
			_, err = r.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(r.ctx, r.ed.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) != test.gone || len(r.leases.active) > 0 == test.gone {
				t.Errorf("read Lease: %v; renewed are %v", err, r.leases.active)
			}
		})
	}
}

// Nodes that were left once are left by later starts too, though there are other EdgeDevices then, until their own
// EdgeDevice is back. One that only has its name does not replace them either.
func TestLeftNode(t *testing.T) {
	for name, test := range map[string]struct {
		emptyAtStart, left, made bool // made: since the start
		change                   func(*aranya.EdgeDevice)
		verb                     string
		stays                    bool // as a Node that is left
	}{
		"none at all":              {emptyAtStart: true, verb: "patch", stays: true},
		"none at all, again":       {emptyAtStart: true, left: true, stays: true},
		"a later start":            {left: true, stays: true},
		"made since":               {emptyAtStart: true, made: true, verb: "delete"},
		"a later start, created":   {left: true, change: func(ed *aranya.EdgeDevice) { ed.UID = "new" }, stays: true},
		"none at all, created":     {emptyAtStart: true, change: func(ed *aranya.EdgeDevice) { ed.UID = "new" }, verb: "patch", stays: true},
		"created again":            {change: func(ed *aranya.EdgeDevice) { ed.UID = "new" }, verb: "delete"},
		"made since, then created": {emptyAtStart: true, made: true, change: func(ed *aranya.EdgeDevice) { ed.UID = "new" }, verb: "delete"},
		"restored":                 {left: true, change: func(*aranya.EdgeDevice) {}, verb: "patch"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.config.Pods = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{PodIndex: IndexPod})
			r.expect("create")
			r.see("5", nil)
			r.census.seen(r.ed.Name)
			r.expect("")
			r.change(func(n *corev1.Node) {
				n.ResourceVersion = "6"
				if !test.made {
					n.CreationTimestamp = metav1.NewTime(r.start.Add(-time.Hour))
				} else {
					n.CreationTimestamp = metav1.NewTime(r.start.Add(time.Second))
				}
				if test.left {
					n.Annotations[aranya.AnnotationMissing] = "2026-01-01T00:00:00Z"
				}
			})
			r.emptyAtStart = test.emptyAtStart
			if err := r.config.Devices.GetIndexer().Delete(r.ed); err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				ed := r.ed.DeepCopy()
				test.change(ed)
				if err := r.config.Devices.GetIndexer().Add(ed); err != nil {
					t.Fatal(err)
				}
			}
			r.expect(test.verb)
			n, err := r.kube.CoreV1().Nodes().Get(r.ctx, r.ed.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) != (test.verb == "delete") || err == nil && Left(n) != test.stays {
				t.Errorf("the Node is %v, error %v", n, err)
			}
		})
	}
}

// The pods of such a Node go before it.
func TestOrphanWithPods(t *testing.T) {
	r := newRig(t)
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{PodIndex: IndexPod})
	r.config.Pods = pods
	r.expect("create")
	r.see("5", nil)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{NodeName: r.ed.Name}}
	if err := pods.Add(pod); err != nil {
		t.Fatal(err)
	}
	if err := r.kube.Tracker().Add(pod); err != nil {
		t.Fatal(err)
	}
	if err := r.config.Devices.GetIndexer().Delete(r.ed); err != nil {
		t.Fatal(err)
	}
	if verbs, again, err := r.sync(); !slices.Equal(verbs, []string{"patch"}) || again != drainPoll || err != nil {
		t.Errorf("did %v, again after %s, error %v", verbs, again, err)
	}
	if _, err := r.kube.CoreV1().Pods("default").Get(r.ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("read the pod: %v", err)
	}
	if err := pods.Delete(pod); err != nil {
		t.Fatal(err)
	}
	r.expect("delete")
}

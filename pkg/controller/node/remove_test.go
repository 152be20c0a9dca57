package node

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// drained returns a rig with a Node whose removal began so long ago, unless negative, and these pods. Those named
// young were made after that.
func drained(t *testing.T, ago time.Duration, pods ...*corev1.Pod) (*rig, *corev1.Node) {
	t.Helper()
	r := newRig(t)
	r.expect("create")
	begun := r.clock.Now().Add(-ago)
	r.see("5", func(n *corev1.Node) {
		if ago >= 0 {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: aranya.TaintRemoving, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &metav1.Time{Time: begun}})
		}
	})
	r.config.Pods = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{PodIndex: IndexPod})
	for _, pod := range pods {
		pod.Namespace, pod.Spec.NodeName, pod.CreationTimestamp = "default", r.ed.Name, metav1.NewTime(begun)
		if pod.Name == "young" {
			pod.CreationTimestamp = metav1.NewTime(begun.Add(time.Second))
		}
		if err := r.config.Pods.Add(pod); err != nil {
			t.Fatal(err)
		}
		if err := r.kube.Tracker().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	r.kube.ClearActions()
	n, err := r.get(r.ed.Name)
	if err != nil {
		t.Fatal(err)
	}
	return r, n
}

// deleted returns which pods were deleted, with which grace.
func (r *rig) deleted() map[string]int64 {
	graces := map[string]int64{}
	for _, a := range r.kube.Actions() {
		if d, ok := a.(clienttesting.DeleteActionImpl); ok && d.Resource.Resource == "pods" {
			graces[d.Name] = *d.DeleteOptions.GracePeriodSeconds
		}
	}
	return graces
}

func namedPod(name string, grace int64) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace}}
}

func TestDrain(t *testing.T) {
	mirror := namedPod("mirror", 30)
	mirror.Annotations = map[string]string{staticpod.AnnotationMirror: "x"}
	ending := namedPod("ending", 30)
	ending.DeletionTimestamp, ending.DeletionGracePeriodSeconds, ending.Finalizers = &metav1.Time{Time: time.Unix(1e9, 0)}, ptr.To[int64](30), []string{"a/b"}
	held := namedPod("held", 30)
	held.DeletionTimestamp, held.DeletionGracePeriodSeconds, held.Finalizers = ending.DeletionTimestamp, ptr.To[int64](0), ending.Finalizers
	for name, test := range map[string]struct {
		ago     time.Duration // since it began; -1 if it is to begin
		away    bool          // the device is
		pods    []*corev1.Pod
		deleted map[string]int64
		marked  bool // now
		done    bool
	}{
		"without pods":                 {ago: -1, done: true},
		"begins with their grace":      {ago: -1, pods: []*corev1.Pod{namedPod("p", 5), namedPod("q", 600), mirror}, deleted: map[string]int64{"p": 5, "q": 30, "mirror": 0}, marked: true},
		"ending already":               {ago: 10 * time.Second, pods: []*corev1.Pod{ending, namedPod("p", 600)}, deleted: map[string]int64{"p": 20}},
		"finalizers of others":         {ago: 10 * time.Second, pods: []*corev1.Pod{held}, done: true},
		"begins without the device":    {ago: -1, away: true, pods: []*corev1.Pod{namedPod("p", 5)}, deleted: map[string]int64{"p": 0}, marked: true},
		"time is over":                 {ago: drainTime, pods: []*corev1.Pod{ending, namedPod("p", 5)}, deleted: map[string]int64{"ending": 0, "p": 0}},
		"they cannot be deleted":       {ago: drainTime + forceTime, pods: []*corev1.Pod{namedPod("p", 5)}, done: true},
		"those made since do not stop": {ago: 10 * time.Second, pods: []*corev1.Pod{namedPod("young", 5), namedPod("p", 5)}, deleted: map[string]int64{"p": 5}},
		"those made since alone":       {ago: 10 * time.Second, pods: []*corev1.Pod{namedPod("young", 5)}, done: true},
		"the same without the device":  {ago: 10 * time.Second, away: true, pods: []*corev1.Pod{namedPod("young", 5)}, done: true},
	} {
		t.Run(name, func(t *testing.T) {
			var pods []*corev1.Pod
			for _, pod := range test.pods {
				pods = append(pods, pod.DeepCopy())
			}
			r, n := drained(t, test.ago, pods...)
			again, err := r.Drain(r.ctx, n, !test.away)
			if err != nil || (again == 0) != test.done {
				t.Errorf("again after %s, error %v", again, err)
			}
			if got := r.deleted(); !maps.Equal(got, test.deleted) {
				t.Errorf("deleted %v, want %v", got, test.deleted)
			}
			stored, err := r.kube.CoreV1().Nodes().Get(r.ctx, n.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, marked := removingSince(stored); marked != test.marked {
				t.Errorf("taints are %v", stored.Spec.Taints)
			}
		})
	}
}

// A taint that does not say since when is not that of a removal which has begun.
func TestDrainMarksAnew(t *testing.T) {
	r, _ := drained(t, -1, namedPod("p", 5))
	r.see("6", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: aranya.TaintRemoving, Effect: corev1.TaintEffectNoSchedule})
	})
	n, err := r.get(r.ed.Name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Drain(r.ctx, n, true); err != nil {
		t.Fatal(err)
	}
	if got := r.deleted(); !maps.Equal(got, map[string]int64{"p": 5}) {
		t.Errorf("deleted %v", got)
	}
	if n, err = r.kube.CoreV1().Nodes().Get(r.ctx, n.Name, metav1.GetOptions{}); err != nil || len(n.Spec.Taints) != 2 {
		t.Errorf("%v: taints are %v", err, n.Spec.Taints)
	}
}

// What is left on a Node that is not to be any more goes by force, once whoever makes pods for it can make no more.
func TestPodsThatAreLeftGoAfterTheNode(t *testing.T) {
	r, _ := drained(t, 10*time.Second, namedPod("young", 5))
	r.ed.Spec.Node.Disabled = true
	if _, again, err := r.sync(); again > 0 || err != nil {
		t.Fatalf("again after %s, error %v", again, err)
	}
	var did []string
	for _, a := range r.kube.Actions() {
		if a.GetVerb() == "delete" && a.GetResource().Resource != "leases" {
			did = append(did, a.GetResource().Resource)
		}
	}
	if want := []string{"nodes", "pods"}; !slices.Equal(did, want) {
		t.Errorf("deleted %v, want %v", did, want)
	}
	if got := fmt.Sprint(r.deleted()); got != "map[young:0]" {
		t.Errorf("deleted %s", got)
	}
}

package node

import (
	"context"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2/ktesting"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/links"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	edgefake "arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	"arhat.dev/aranya/pkg/generated/informers/externalversions"
)

// fakeSession is a link that has nothing but a hello.
type fakeSession struct {
	gateway.Session
	device gateway.Device
}

func (s *fakeSession) Device() gateway.Device { return s.device }
func (s *fakeSession) Info() gateway.Info     { return gateway.Info{} }
func (s *fakeSession) Hello() *edgeapi.Hello {
	return &edgeapi.Hello{NodeStatus: &edgeapi.NodeStatus{}}
}

// rig is a Controller whose informers tell of nothing but what a test puts into memory.
type rig struct {
	*Controller
	t     *testing.T
	ctx   context.Context
	kube  *fake.Clientset
	nodes cache.Indexer
	clock *clocktesting.FakeClock
	ed    *aranya.EdgeDevice
}

func newRig(t *testing.T) *rig {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	r := &rig{t: t, ctx: ctx, kube: fake.NewClientset(), clock: clocktesting.NewFakeClock(time.Unix(1e9, 0)), ed: device(aranya.NodeSpec{})}
	r.ed.Finalizers = []string{aranya.FinalizerNode}
	nodes := informers.NewSharedInformerFactory(r.kube, 0).Core().V1().Nodes().Informer()
	edge := edgefake.NewClientset()
	devices := externalversions.NewSharedInformerFactory(edge, 0).Aranya().V1alpha1().EdgeDevices().Informer()
	if err := devices.GetIndexer().Add(r.ed); err != nil {
		t.Fatal(err)
	}
	recorder := events.New(ctx)
	tracker := links.NewTracker(r.clock, time.Minute)
	var err error
	if r.Controller, err = New(Config{
		Kube: r.kube, Edge: edge, Nodes: nodes, Devices: devices, Tracker: tracker, Events: recorder, Clock: r.clock, Address: "192.0.2.1", Port: 10250,
	}); err != nil {
		t.Fatal(err)
	}
	r.nodes = nodes.GetIndexer()
	tracker.SessionStarted(&fakeSession{device: gateway.DeviceOf(r.ed)})
	t.Cleanup(func() {
		r.queue.ShutDown()
		r.leases.queue.ShutDown()
		recorder.Stop()
		cancel()
	})
	return r
}

// sync has the controller look at the device; it returns what it did to Nodes.
func (r *rig) sync() (verbs []string, again time.Duration, err error) {
	r.t.Helper()
	r.kube.ClearActions()
	again, err = r.Controller.sync(r.ctx, links.Key(gateway.DeviceOf(r.ed)))
	for _, a := range r.kube.Actions() {
		if a.GetResource().Resource == "nodes" {
			verbs = append(verbs, a.GetVerb())
		}
	}
	return verbs, again, err
}

func (r *rig) expect(verb string) {
	r.t.Helper()
	verbs, _, err := r.sync()
	if err != nil || (verb == "") != (len(verbs) == 0) || verb != "" && (len(verbs) != 1 || verbs[0] != verb) {
		r.t.Errorf("did %v, error %v; want %q", verbs, err, verb)
	}
}

// node returns the Node as it is in memory.
func (r *rig) node() *corev1.Node {
	r.t.Helper()
	n, err := r.get(r.ed.Name)
	if err != nil || n == nil {
		r.t.Fatalf("Node: %v, error %v", n, err)
	}
	return n.DeepCopy()
}

// change has somebody change the Node, and memory know of it as it is then.
func (r *rig) change(change func(*corev1.Node)) {
	r.t.Helper()
	n, err := r.kube.CoreV1().Nodes().Get(r.ctx, r.ed.Name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	if change != nil {
		change(n)
		if n, err = r.kube.CoreV1().Nodes().Update(r.ctx, n, metav1.UpdateOptions{}); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.nodes.Update(n); err != nil {
		r.t.Fatal(err)
	}
}

// see puts the Node into memory, changed and at another version.
func (r *rig) see(version string, change func(*corev1.Node)) {
	r.t.Helper()
	n, err := r.kube.CoreV1().Nodes().Get(r.ctx, r.ed.Name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	n = n.DeepCopy()
	n.ResourceVersion = version
	if change != nil {
		change(n)
	}
	if err := r.nodes.Update(n); err != nil {
		r.t.Fatal(err)
	}
}

// A Node that the informer has not told of yet is not created again.
func TestNodeIsCreatedOnce(t *testing.T) {
	r := newRig(t)
	r.expect("create")
	if verbs, again, err := r.sync(); len(verbs) > 0 || again != seenTime || err != nil {
		t.Errorf("did %v, again after %s, error %v", verbs, again, err)
	}
	r.census.seen(r.ed.Name) // and is deleted by somebody
	r.census.gone()
	if err := r.kube.CoreV1().Nodes().Delete(r.ctx, r.ed.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.expect("create")
	// What came and went unseen does not last for ever, and neither does what failed.
	r.clock.Step(seenTime)
	for range 2 {
		if verbs, again, err := r.sync(); len(verbs) != 1 || again > 0 || err == nil {
			t.Errorf("did %v, again after %s, error %v; want it to exist already", verbs, again, err)
		}
	}
}

// What controller-manager would change of a new Node follows the number of Nodes, those included that are not
// in memory yet.
func TestNewNodeIsComplete(t *testing.T) {
	r := newRig(t)
	for i := range 100 {
		r.census.seen("n" + strconv.Itoa(i))
	}
	r.kube.PrependReactor("create", "nodes", func(action clienttesting.Action) (bool, runtime.Object, error) {
		n := action.(clienttesting.CreateAction).GetObject().(*corev1.Node)
		if got := n.Annotations[corev1.ObjectTTLAnnotationKey]; got != "15" {
			t.Errorf("created as one of 101 with TTL %q", got)
		}
		n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "aranya"}}
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
		for i := range 400 { // others come meanwhile
			r.census.creating("m" + strconv.Itoa(i))
		}
		return false, nil, nil
	})
	r.kube.PrependReactor("update", "nodes", func(action clienttesting.Action) (bool, runtime.Object, error) {
		n := action.(clienttesting.UpdateAction).GetObject().(*corev1.Node)
		if got := n.Annotations[corev1.ObjectTTLAnnotationKey]; got != "30" || len(n.Spec.Taints) != 1 || n.ManagedFields != nil {
			t.Errorf("updated as one of 501 with TTL %q, taints %v, managed fields %v", got, n.Spec.Taints, n.ManagedFields)
		}
		return false, nil, nil
	})
	if verbs, _, err := r.sync(); len(verbs) != 2 || err != nil {
		t.Errorf("did %v, error %v", verbs, err)
	}
}

// What has not changed is not looked at again; what has is.
func TestSettledNode(t *testing.T) {
	r := newRig(t)
	r.expect("create")
	r.see("5", nil)
	r.census.seen(r.ed.Name)
	r.expect("")
	unlabel := func(n *corev1.Node) { n.Labels = nil }
	r.see("5", unlabel) // that cannot be
	r.expect("")
	r.see("6", unlabel)
	r.expect("patch")
	r.see("7", nil)
	r.expect("")

	for name, change := range map[string]func(){
		"another spec":   func() { r.ed.Generation++; r.ed.Spec.Node.Labels = map[string]string{"a": "b"} },
		"another status": func() { r.report(corev1.NodeSystemInfo{OperatingSystem: "linux"}) },
		"another link":   func() { r.config.Tracker.SessionStarted(&fakeSession{device: gateway.DeviceOf(r.ed)}) },
	} {
		r.see("7", unlabel)
		change()
		if verbs, _, err := r.sync(); len(verbs) == 0 || err != nil {
			t.Errorf("%s: did %v, error %v", name, verbs, err)
		}
		r.see("7", nil)
		if _, _, err := r.sync(); err != nil {
			t.Error(err)
		}
	}
	if len(r.settled) != 1 {
		t.Errorf("%d are settled", len(r.settled))
	}
	r.LinkDown(gateway.DeviceOf(r.ed), links.Loss{Reason: context.Canceled, At: r.clock.Now()})
	if len(r.settled) != 0 {
		t.Error("remembered without a link")
	}
}

// A resource that somebody advertises on the Node costs one write.
func TestAdvertisedResource(t *testing.T) {
	r := newRig(t)
	r.expect("create")
	r.census.seen(r.ed.Name)
	four := resource.MustParse("4")
	r.see("5", func(n *corev1.Node) { n.Status.Capacity["example.com/dongle"] = four })
	r.expect("patch")
	n, err := r.kube.CoreV1().Nodes().Get(r.ctx, r.ed.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Status.Allocatable["example.com/dongle"]; !got.Equal(four) {
		t.Errorf("allocatable is %s", got.String())
	}
	r.see("6", func(n *corev1.Node) { n.Status.Capacity["example.com/dongle"] = four })
	r.expect("")
	r.report(corev1.NodeSystemInfo{OperatingSystem: "linux"})
	if _, _, err := r.sync(); err != nil {
		t.Fatal(err)
	}
	r.see("7", func(n *corev1.Node) { n.Status.Capacity["example.com/dongle"] = four })
	r.expect("")
}

// report has the device say something else of itself.
func (r *rig) report(info corev1.NodeSystemInfo) {
	r.t.Helper()
	data, err := (&corev1.NodeStatus{NodeInfo: info}).Marshal()
	if err != nil {
		r.t.Fatal(err)
	}
	r.config.Tracker.DeviceMessage(r.config.Tracker.Session(links.Key(gateway.DeviceOf(r.ed)), r.ed.UID), &edgeapi.DeviceMessage{
		Message: &edgeapi.DeviceMessage_NodeStatus{NodeStatus: &edgeapi.NodeStatus{Status: data}},
	})
}

// A Node that came and went in a gap of the informer must not be counted for ever.
func TestForgottenNodesAreNotCounted(t *testing.T) {
	r := newRig(t)
	key := types.NamespacedName{Namespace: r.ed.Namespace, Name: r.ed.Name}
	r.census.creating(key.Name)
	if err := r.config.Devices.GetIndexer().Delete(r.ed); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Controller.sync(r.ctx, key); err != nil {
		t.Fatal(err)
	}
	if n := r.census.size(); n != 0 {
		t.Errorf("%d Nodes are counted", n)
	}
}

// The Lease of a device that is being deleted is not written any more, unless pods are still to end.
func TestLeaseOfDeletedDevice(t *testing.T) {
	r := newRig(t)
	r.expect("create")
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{PodIndex: IndexPod})
	r.config.Pods = pods
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{NodeName: r.ed.Name}}
	if err := pods.Add(pod); err != nil {
		t.Fatal(err)
	}
	r.see("5", func(n *corev1.Node) { n.UID = r.leases.active[n.Name].node })
	leaving := func() bool { return r.leases.active[r.ed.Name].leaving }
	r.ed.DeletionTimestamp = &metav1.Time{Time: r.clock.Now()}
	r.expect("")
	if leaving() {
		t.Error("the Lease is not renewed any more though there is a pod")
	}
	if err := pods.Delete(pod); err != nil {
		t.Fatal(err)
	}
	r.expect("")
	if !leaving() {
		t.Error("the Lease is still renewed")
	}
}

package controller

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	edgefake "arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	"arhat.dev/aranya/pkg/generated/informers/externalversions"
	"arhat.dev/aranya/test/framework/eventually"
)

// cluster is a set of running controllers on fake clientsets.
type cluster struct {
	t           *testing.T
	ctx         context.Context
	kube        *kubefake.Clientset
	edge        *edgefake.Clientset
	controllers *Controllers
	factory     externalversions.SharedInformerFactory

	version       int // of Nodes
	deviceVersion int // the same of EdgeDevices

	mu           sync.Mutex
	disconnected []gateway.Device
}

func newCluster(t *testing.T, grace time.Duration, objects ...runtime.Object) *cluster {
	t.Helper()
	return newClusterAt(t, clock.RealClock{}, grace, objects...)
}

func newClusterAt(t *testing.T, clock clock.WithTicker, grace time.Duration, objects ...runtime.Object) *cluster {
	t.Helper()
	c := buildCluster(t, clock, grace, objects...)
	c.run()
	return c
}

// buildCluster returns a cluster whose controllers do not run yet.
func buildCluster(t *testing.T, clock clock.WithTicker, grace time.Duration, objects ...runtime.Object) *cluster {
	t.Helper()
	var kube, edge []runtime.Object
	for _, o := range objects {
		if _, ok := o.(*aranya.EdgeDevice); ok {
			edge = append(edge, o)
		} else {
			kube = append(kube, o)
		}
	}
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	c := &cluster{t: t, ctx: ctx, kube: kubefake.NewClientset(kube...), edge: edgefake.NewClientset(edge...), version: 1, deviceVersion: 1}
	c.kube.PrependReactor("create", "nodes", admitNode)
	c.kube.PrependReactor("patch", "nodes", c.versionNode)
	c.kube.PrependReactor("update", "nodes", c.versionNode)
	c.kube.PrependReactor("create", "pods", identifyPod)
	c.kube.PrependReactor("delete", "pods", c.deletePod)
	c.edge.PrependReactor("update", "edgedevices", c.versionDevice)
	c.edge.PrependReactor("update", "edgedevices", c.dropFinalized)
	c.factory = externalversions.NewSharedInformerFactory(c.edge, 0)
	var err error
	c.controllers, err = New(Config{
		Kube: c.kube, Edge: c.edge, EdgeInformers: c.factory,
		NodeAddress: "192.0.2.1", KubeletPort: 10250, Replica: "test", ReconnectGrace: grace, Clock: clock,
		Disconnect: func(d gateway.Device, _ error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.disconnected = append(c.disconnected, d)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs the controllers until the test ends.
func (c *cluster) run() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.controllers.Run(ctx); err != nil {
			c.t.Errorf("Run: %v", err)
		}
	}()
	c.t.Cleanup(func() {
		cancel()
		<-done
		c.factory.Shutdown()
	})
	eventually.Holds(c.t, "informers synced", func() bool {
		return c.controllers.HasSynced() && watched(c.kube.Actions(), "nodes", "pods") && watched(c.edge.Actions(), "edgedevices")
	})
}

// watched says whether informers watch these resources, and not only have listed them: a fake clientset tells a watch
// of nothing that came before it.
func watched(actions []clienttesting.Action, resources ...string) bool {
	missing := sets.New(resources...)
	for _, a := range actions {
		if a.GetVerb() == "watch" {
			missing.Delete(a.GetResource().Resource)
		}
	}
	return missing.Len() == 0
}

// admitNode does what the admission plugin TaintNodesByCondition does.
func admitNode(action clienttesting.Action) (bool, runtime.Object, error) {
	n := action.(clienttesting.CreateAction).GetObject().(*corev1.Node)
	n.UID, n.ResourceVersion = uuid.NewUUID(), "1"
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	return false, nil, nil
}

// identifyPod gives a pod a UID, as kube-apiserver does.
func identifyPod(action clienttesting.Action) (bool, runtime.Object, error) {
	p := action.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
	if p.UID == "" {
		p.UID = uuid.NewUUID()
	}
	return false, nil, nil
}

// versionNode gives a Node a new resource version with each change, and refuses a change of an old one,
// as kube-apiserver does.
func (c *cluster) versionNode(action clienttesting.Action) (bool, runtime.Object, error) {
	gvr := corev1.SchemeGroupVersion.WithResource("nodes")
	var name, version string
	switch a := action.(type) {
	case clienttesting.PatchAction:
		var wanted corev1.Node
		if err := json.Unmarshal(a.GetPatch(), &wanted); err == nil {
			version = wanted.ResourceVersion
		}
		name = a.GetName()
	case clienttesting.UpdateAction:
		n := a.GetObject().(*corev1.Node)
		name, version = n.Name, n.ResourceVersion
	}
	current, err := c.kube.Tracker().Get(gvr, "", name)
	if err != nil {
		return true, nil, err
	}
	if version != "" && version != current.(*corev1.Node).ResourceVersion {
		return true, nil, apierrors.NewConflict(gvr.GroupResource(), name, errors.New("changed meanwhile"))
	}
	_, object, err := clienttesting.ObjectReaction(c.kube.Tracker())(action)
	if err != nil {
		return true, nil, err
	}
	n := object.(*corev1.Node).DeepCopy()
	c.version++
	n.ResourceVersion = strconv.Itoa(c.version)
	return true, n, c.kube.Tracker().Update(gvr, n, "")
}

// deletePod gives pods their grace period, and another generation with it, as kube-apiserver does.
func (c *cluster) deletePod(action clienttesting.Action) (bool, runtime.Object, error) {
	deletion := action.(clienttesting.DeleteActionImpl)
	grace := ptr.Deref(deletion.DeleteOptions.GracePeriodSeconds, 30)
	if grace == 0 {
		return false, nil, nil
	}
	object, err := c.kube.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), deletion.Namespace, deletion.Name)
	if err != nil {
		return true, nil, err
	}
	pod := object.(*corev1.Pod).DeepCopy()
	if pod.DeletionTimestamp == nil {
		pod.Generation++
	}
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, &grace
	return true, pod, c.kube.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, deletion.Namespace)
}

var edgeDevices = aranya.SchemeGroupVersion.WithResource("edgedevices")

// versionDevice gives an EdgeDevice a new resource version with each update, and refuses an update of an
// old one, as the API server does. By it the controllers tell that what they have written themselves is
// newer than what an informer has seen.
func (c *cluster) versionDevice(action clienttesting.Action) (bool, runtime.Object, error) {
	ed := action.(clienttesting.UpdateAction).GetObject().(*aranya.EdgeDevice).DeepCopy()
	current, err := c.edge.Tracker().Get(edgeDevices, ed.Namespace, ed.Name)
	if err != nil {
		return true, nil, err
	}
	if ed.ResourceVersion != current.(*aranya.EdgeDevice).ResourceVersion {
		return true, nil, apierrors.NewConflict(edgeDevices.GroupResource(), ed.Name, errors.New("changed meanwhile"))
	}
	c.deviceVersion++
	ed.ResourceVersion = strconv.Itoa(c.deviceVersion)
	return true, ed, c.edge.Tracker().Update(edgeDevices, ed, ed.Namespace)
}

// dropFinalized deletes an EdgeDevice whose last finalizer is taken off, as the API server does.
func (c *cluster) dropFinalized(action clienttesting.Action) (bool, runtime.Object, error) {
	ed := action.(clienttesting.UpdateAction).GetObject().(*aranya.EdgeDevice)
	if ed.DeletionTimestamp == nil || len(ed.Finalizers) > 0 {
		return false, nil, nil
	}
	return true, ed, c.edge.Tracker().Delete(edgeDevices, ed.Namespace, ed.Name)
}

// change updates an EdgeDevice as a user does.
func (c *cluster) change(name string, mutate func(*aranya.EdgeDevice)) {
	c.t.Helper()
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		ed := c.device(name).DeepCopy()
		mutate(ed)
		_, err := c.edge.AranyaV1alpha1().EdgeDevices("edge").Update(c.ctx, ed, metav1.UpdateOptions{})
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) node(name string) *corev1.Node {
	n, err := c.kube.CoreV1().Nodes().Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return n
}

func (c *cluster) lease(name string) *coordinationv1.Lease {
	lease, err := c.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return lease
}

func (c *cluster) pod(name string) *corev1.Pod {
	p, err := c.kube.CoreV1().Pods("edge").Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return p
}

func (c *cluster) device(name string) *aranya.EdgeDevice {
	ed, err := c.edge.AranyaV1alpha1().EdgeDevices("edge").Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return ed
}

func (c *cluster) ready(name string) corev1.ConditionStatus {
	n := c.node(name)
	if n == nil {
		return ""
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status
		}
	}
	return ""
}

// events returns the reasons of the events on an object, in order.
func (c *cluster) events(kind, name string) []string {
	list, err := c.kube.CoreV1().Events("").List(c.ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var reasons []string
	for _, e := range list.Items {
		if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

// connect brings up a link of a device.
func (c *cluster) connect(s *session) *session {
	c.controllers.Handler().SessionStarted(s)
	c.t.Cleanup(s.end)
	return s
}

// cuts returns the devices whose links were cut by the controllers.
func (c *cluster) cuts() []gateway.Device {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.disconnected)
}

func (c *cluster) cut(s *session, reason string) {
	s.end()
	c.controllers.Handler().SessionEnded(s, errors.New(reason))
}

func (c *cluster) report(s *session, pod *corev1.Pod, status corev1.PodStatus) {
	data, err := status.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_PodStatus{
		PodStatus: &edgeapi.PodStatus{Uid: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Status: data},
	}})
}

func (c *cluster) removed(s *session, pod *corev1.Pod, status *corev1.PodStatus) {
	message := &edgeapi.PodRemoved{Uid: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name}
	if status != nil {
		data, err := status.Marshal()
		if err != nil {
			c.t.Fatal(err)
		}
		message.Status = data
	}
	c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_PodRemoved{PodRemoved: message}})
}

var _ gateway.Session = &session{}

func edgeDevice(name string) *aranya.EdgeDevice {
	return &aranya.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: name, UID: types.UID("uid-of-" + name), Generation: 1, ResourceVersion: "1"},
		Status:     aranya.EdgeDeviceStatus{Certificate: &aranya.CertificateStatus{SerialNumber: "1", PublicKeySHA256: "a"}},
	}
}

func edgePod(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: name, UID: types.UID("uid-of-" + name), Generation: 1},
		Spec: corev1.PodSpec{
			NodeName: node, EnableServiceLinks: ptr.To(true),
			Containers: []corev1.Container{{Name: "main", Image: "busybox"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort,
			Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func hasTaint(n *corev1.Node, key string) bool {
	return n != nil && slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}

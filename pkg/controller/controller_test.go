package controller

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	edgefake "arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	"arhat.dev/aranya/pkg/generated/informers/externalversions"
	"arhat.dev/aranya/test/framework/eventually"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNewRefusesIncompleteConfig(t *testing.T) {
	edge := edgefake.NewClientset()
	factory := externalversions.NewSharedInformerFactory(edge, 0)
	for name, config := range map[string]Config{
		"no clients": {NodeAddress: "192.0.2.1", KubeletPort: 1},
		"no address": {Kube: kubefake.NewClientset(), Edge: edge, EdgeInformers: factory, KubeletPort: 1},
		"no port":    {Kube: kubefake.NewClientset(), Edge: edge, EdgeInformers: factory, NodeAddress: "192.0.2.1"},
	} {
		if _, err := New(config); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDeviceGetsNode(t *testing.T) {
	ed := edgeDevice("d1")
	ed.Spec.Node.Labels = map[string]string{"zone": "a"}
	ed.Spec.Node.Taints = []corev1.Taint{{Key: "own", Effect: corev1.TaintEffectNoExecute}}
	ed.Spec.Pod.Capacity = ptr.To[int32](7)
	c := newCluster(t, time.Hour, ed)
	eventually.Holds(t, "status before the first link", func() bool {
		d := c.device("d1")
		return d.Status.Phase == aranya.EdgeDeviceOffline && meta.FindStatusCondition(d.Status.Conditions, aranya.EdgeDeviceNodeReady) != nil
	})
	if c.node("d1") != nil {
		t.Fatal("there is a Node before the device ever connected")
	}
	c.connect(newSession(ed))
	eventually.Holds(t, "Node ready and untainted", func() bool {
		return c.ready("d1") == corev1.ConditionTrue && !hasTaint(c.node("d1"), corev1.TaintNodeNotReady)
	})
	n := c.node("d1")
	for k, v := range map[string]string{
		aranya.LabelRole: aranya.RoleEdgeDevice, aranya.LabelName: "d1", aranya.LabelNamespace: "edge", "zone": "a",
		corev1.LabelArchStable: "arm64", corev1.LabelOSStable: "linux", corev1.LabelHostname: "d1",
		"beta.kubernetes.io/arch": "arm64", "beta.kubernetes.io/os": "linux",
	} {
		if n.Labels[k] != v {
			t.Errorf("label %s is %q, want %q", k, n.Labels[k], v)
		}
	}
	for k, v := range map[string]string{
		aranya.AnnotationUID:                   string(ed.UID),
		"metrics.k8s.io/resource-metrics-path": "/nodes/d1/metrics/resource",
		"node.alpha.kubernetes.io/ttl":         "0",
	} {
		if n.Annotations[k] != v {
			t.Errorf("annotation %s is %q, want %q", k, n.Annotations[k], v)
		}
	}
	if !hasTaint(n, aranya.TaintNamespace) || !hasTaint(n, "own") {
		t.Errorf("taints: %v", n.Spec.Taints)
	}
	if got := n.Status.Allocatable.Pods().Value(); got != 7 {
		t.Errorf("allocatable pods: %d", got)
	}
	want := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	if !slices.Equal(n.Status.Addresses, want) || n.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Errorf("endpoint: %v %v", n.Status.Addresses, n.Status.DaemonEndpoints)
	}
	eventually.Holds(t, "status of the EdgeDevice", func() bool {
		s := c.device("d1").Status
		return s.Phase == aranya.EdgeDeviceOnline && s.AgentVersion == "v1.2.3" && s.NodeName == "d1" && s.ObservedGeneration == 1 &&
			s.LastSeen != nil && s.Device != nil && s.Device.KernelVersion == "6.1.0" && s.Certificate != nil &&
			meta.IsStatusConditionTrue(s.Conditions, aranya.EdgeDeviceConnected) &&
			meta.IsStatusConditionTrue(s.Conditions, aranya.EdgeDeviceEnrolled) &&
			meta.IsStatusConditionTrue(s.Conditions, aranya.EdgeDeviceNodeReady)
	})
	eventually.Holds(t, "events", func() bool {
		got := c.events("EdgeDevice", "d1")
		return slices.Contains(got, "Connected") && slices.Contains(got, "NodeCreated")
	})
	if !slices.Contains(c.device("d1").Finalizers, aranya.FinalizerNode) {
		t.Error("no finalizer")
	}
	if ns, name, ok := c.controllers.DeviceForNode("d1"); !ok || ns != "edge" || name != "d1" {
		t.Errorf("DeviceForNode: %s/%s %v", ns, name, ok)
	}
	eventually.Holds(t, "when the device was seen", func() bool {
		seen := c.controllers.LastSeen("edge", "d1")
		return !seen.IsZero() && seen.Equal(c.device("d1").Status.LastSeen.Time)
	})
	if !c.controllers.LastSeen("edge", "nobody").IsZero() {
		t.Error("a device that does not exist was seen")
	}
}

func TestOnlyNode(t *testing.T) {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	c := &Controllers{nodeLister: corelisters.NewNodeLister(nodes)}
	own := func(name string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: name, Annotations: map[string]string{aranya.AnnotationUID: "u-" + name},
			Labels: map[string]string{aranya.LabelRole: aranya.RoleEdgeDevice, aranya.LabelName: name, aranya.LabelNamespace: "edge"},
		}}
	}
	for _, step := range []struct {
		add  *corev1.Node
		want string
	}{
		{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker"}}, ""},
		{own("d1"), "d1"},
		{own("d2"), ""},
	} {
		if err := nodes.Add(step.add); err != nil {
			t.Fatal(err)
		}
		if got := c.OnlyNode(); got != step.want {
			t.Errorf("with %s: got %q, want %q", step.add.Name, got, step.want)
		}
	}
}

func TestRuntimeNotReady(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed)
	s := newSession(ed)
	s.hello.NodeStatus = nodeStatus("6.1.0", corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "RuntimeNotReady", Message: "no containerd"})
	c.connect(s)
	eventually.Holds(t, "Node not ready", func() bool { return c.ready("d1") == corev1.ConditionFalse })
	if !hasTaint(c.node("d1"), corev1.TaintNodeNotReady) {
		t.Error("the taint of a Node that is not ready is gone")
	}
	c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_NodeStatus{NodeStatus: nodeStatus("6.2.0")}})
	eventually.Holds(t, "Node ready", func() bool {
		return c.ready("d1") == corev1.ConditionTrue && !hasTaint(c.node("d1"), corev1.TaintNodeNotReady) && c.node("d1").Status.NodeInfo.KernelVersion == "6.2.0"
	})
	eventually.Holds(t, "fact stored", func() bool {
		d := c.device("d1").Status.Device
		return d != nil && d.KernelVersion == "6.2.0"
	})
}

// Whose device is connected and has no Node is told why, at once and in the words of the cluster.
func TestRefusedNodeIsTold(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, edgePod("p", "elsewhere"))
	var allowed atomic.Bool
	c.kube.PrependReactor("create", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		return !allowed.Load(), nil, apierrors.NewForbidden(corev1.Resource("nodes"), "d1", errors.New("policy 'names' denied request"))
	})
	c.connect(newSession(ed))
	eventually.Holds(t, "condition and event", func() bool {
		ready := meta.FindStatusCondition(c.device("d1").Status.Conditions, aranya.EdgeDeviceNodeReady)
		return ready != nil && ready.Status == metav1.ConditionFalse && ready.Reason == "NodeRefused" && strings.Contains(ready.Message, "policy 'names' denied request") &&
			slices.Contains(c.events("EdgeDevice", "d1"), "NodeRefused")
	})
	allowed.Store(true)
	eventually.Holds(t, "Node", func() bool {
		return meta.IsStatusConditionTrue(c.device("d1").Status.Conditions, aranya.EdgeDeviceNodeReady)
	})
}

func TestForeignNodeIsNotTouched(t *testing.T) {
	ed := edgeDevice("d1")
	foreign := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "d1", UID: "foreign"}}
	c := newCluster(t, time.Hour, ed, foreign, edgePod("p", "d1"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "conflict told", func() bool {
		ready := meta.FindStatusCondition(c.device("d1").Status.Conditions, aranya.EdgeDeviceNodeReady)
		return ready != nil && ready.Reason == "NodeNameConflict" && slices.Contains(c.events("EdgeDevice", "d1"), "NodeNameConflict")
	})
	for _, a := range c.kube.Actions() {
		if a.GetResource().Resource == "nodes" && !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			t.Errorf("%s of a foreign Node", a.GetVerb())
		}
	}
	if len(s.desired())+len(s.runs()) > 0 {
		t.Error("pods of a foreign Node were sent to the device")
	}
	if _, _, ok := c.controllers.DeviceForNode("d1"); ok {
		t.Error("the foreign Node counts as the device's")
	}
	if err := c.kube.CoreV1().Nodes().Delete(c.ctx, "d1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "own Node", func() bool { return c.ready("d1") == corev1.ConditionTrue })
	eventually.Holds(t, "no conflict", func() bool {
		return meta.IsStatusConditionTrue(c.device("d1").Status.Conditions, aranya.EdgeDeviceNodeReady)
	})
}

func TestSpecDrift(t *testing.T) {
	ed := edgeDevice("d1")
	ed.Spec.Node.Labels = map[string]string{"zone": "a", "tier": "x"}
	ed.Spec.Node.Unschedulable = true
	c := newCluster(t, time.Hour, ed)
	c.connect(newSession(ed))
	eventually.Holds(t, "Node ready", func() bool {
		return c.ready("d1") == corev1.ConditionTrue && !hasTaint(c.node("d1"), corev1.TaintNodeNotReady)
	})

	n := c.node("d1").DeepCopy()
	n.Labels["users"], n.Labels["zone"] = "stays", "spoilt"
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "users", Effect: corev1.TaintEffectNoSchedule})
	if _, err := c.kube.CoreV1().Nodes().Update(c.ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "spoilt label restored", func() bool { return c.node("d1").Labels["zone"] == "a" })

	c.change("d1", func(d *aranya.EdgeDevice) {
		d.Generation = 2
		d.Spec.Node = aranya.NodeSpec{Labels: map[string]string{"zone": "b"}, NamespaceTaint: aranya.NamespaceTaintNone}
	})
	eventually.Holds(t, "Node follows", func() bool {
		n := c.node("d1")
		_, tier := n.Labels["tier"]
		return n.Labels["zone"] == "b" && !tier && !n.Spec.Unschedulable && !hasTaint(n, aranya.TaintNamespace)
	})
	if n := c.node("d1"); n.Labels["users"] != "stays" || !hasTaint(n, "users") {
		t.Errorf("what users set is gone: %v %v", n.Labels, n.Spec.Taints)
	}
}

func ownNode(ed *aranya.EdgeDevice) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: ed.Name, UID: types.UID("node-" + ed.Name),
			Labels:      map[string]string{aranya.LabelName: ed.Name, aranya.LabelNamespace: ed.Namespace},
			Annotations: map[string]string{aranya.AnnotationUID: string(ed.UID)},
		},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

func TestNodeDisabled(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed)
	s := c.connect(newSession(ed))
	eventually.Holds(t, "Node ready", func() bool { return c.ready("d1") == corev1.ConditionTrue })
	c.change("d1", func(d *aranya.EdgeDevice) { d.Generation, d.Spec.Node.Disabled = 2, true })
	eventually.Holds(t, "Node gone", func() bool { return c.node("d1") == nil })
	eventually.Holds(t, "told", func() bool {
		ready := meta.FindStatusCondition(c.device("d1").Status.Conditions, aranya.EdgeDeviceNodeReady)
		return ready != nil && ready.Reason == "NodeDisabled" && c.device("d1").Status.NodeName == ""
	})
	c.cut(s, "gone")
	// A device without a Node has no pods, and is told so.
	s = c.connect(newSession(ed, &edgeapi.PodDigest{Uid: "stale"}))
	eventually.Holds(t, "told to hold no pods", func() bool { return len(s.desired()) == 1 && len(s.desired()[0].Pods) == 0 })
}

// A device that has never got a Node, and is not to get one any more, has no pods from then on.
func TestNodeDisabledWithoutNode(t *testing.T) {
	for name, tt := range map[string]struct {
		foreign bool
		reason  string
	}{
		"another's Node": {foreign: true, reason: aranya.ReasonConflict},
		"refused":        {reason: aranya.ReasonNodeRefused},
	} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("d1")
			c := newCluster(t, time.Hour, ed)
			if tt.foreign {
				if err := c.kube.Tracker().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "d1", UID: "foreign", ResourceVersion: "1"}}); err != nil {
					t.Fatal(err)
				}
			}
			c.kube.PrependReactor("create", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(corev1.Resource("nodes"), "d1", errors.New("not here"))
			})
			s := c.connect(newSession(ed, &edgeapi.PodDigest{Uid: "stale"}))
			eventually.Holds(t, "told why there is no Node", func() bool {
				ready := meta.FindStatusCondition(c.device("d1").Status.Conditions, aranya.EdgeDeviceNodeReady)
				return ready != nil && ready.Reason == tt.reason
			})
			if len(s.desired()) > 0 {
				t.Error("told which pods to hold while it may still get a Node")
			}
			c.change("d1", func(d *aranya.EdgeDevice) { d.Generation, d.Spec.Node.Disabled = 2, true })
			eventually.Holds(t, "told to hold no pods", func() bool { return len(s.desired()) == 1 && len(s.desired()[0].Pods) == 0 })
		})
	}
}

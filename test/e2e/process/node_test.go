package process_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/test/framework/suite"
)

var (
	edgeDevices = schema.GroupVersionResource{Group: v1alpha1.GroupName, Version: "v1alpha1", Resource: "edgedevices"}
	serial      = big.NewInt(1)
)

func nodeReady(ctx context.Context, e *suite.Env, name string, want corev1.ConditionStatus) error {
	node, err := e.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == want {
			return nil
		}
	}
	return fmt.Errorf("node %s: %+v", name, node.Status.Conditions)
}

func phaseIs(ctx context.Context, e *suite.Env, name string, want v1alpha1.EdgeDevicePhase) error {
	ed, err := e.Dynamic.Resource(edgeDevices).Namespace("edge").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if phase, _, _ := unstructured.NestedString(ed.Object, "status", "phase"); phase != string(want) {
		return fmt.Errorf("phase %s", phase)
	}
	return nil
}

func TestNodeOfADevice(t *testing.T) {
	e := suite.Get(t)
	node, err := e.Kube.CoreV1().Nodes().Get(t.Context(), device, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		v1alpha1.LabelRole: v1alpha1.RoleEdgeDevice, v1alpha1.LabelName: device, v1alpha1.LabelNamespace: "edge",
		corev1.LabelOSStable: "linux", corev1.LabelHostname: device,
	} {
		if got := node.Labels[key]; got != want {
			t.Errorf("label %s=%s, want %s", key, got, want)
		}
	}
	want := corev1.Taint{Key: v1alpha1.TaintNamespace, Value: "edge", Effect: corev1.TaintEffectNoSchedule}
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != want.Key || node.Spec.Taints[0].Value != want.Value || node.Spec.Taints[0].Effect != want.Effect {
		t.Errorf("taints %+v, want only %+v", node.Spec.Taints, want)
	}
	if node.Status.Allocatable.Cpu().IsZero() || node.Status.Allocatable.Memory().IsZero() || node.Status.Allocatable.Pods().Value() != 110 {
		t.Errorf("allocatable %v", node.Status.Allocatable)
	}
	// A Node that is new gets its Lease within the interval of renewals.
	suite.Eventually(t, time.Minute, "the node has a lease", func(ctx context.Context) error {
		lease, err := e.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, device, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.RenewTime == nil || len(lease.OwnerReferences) != 1 || lease.OwnerReferences[0].UID != node.UID {
			return fmt.Errorf("lease %+v", lease)
		}
		return nil
	})
}

// A lost link turns the Node to Unknown at once; a pod on it is as it was when the device is back.
func TestDeviceThatIsAway(t *testing.T) {
	e := suite.Get(t)
	const away = "device-2"
	pod := e.RunPod(t, suite.Pod(away, "host", "sleep", "1000"))
	group := e.Cluster.Device(away)
	if err := group.Stop(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, 10*time.Second, "the node is Unknown", func(ctx context.Context) error {
		return nodeReady(ctx, e, away, corev1.ConditionUnknown)
	})
	suite.Eventually(t, 10*time.Second, "the device is Offline", func(ctx context.Context) error {
		return phaseIs(ctx, e, away, v1alpha1.EdgeDeviceOffline)
	})
	if r := e.TryKubectl(t, "", "edge", "-n", "edge", "exec", away, "--", "id"); r.Code == 0 {
		t.Errorf("exec: %+v", r)
	}
	if err := group.Resume(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	if err := e.Cluster.WaitOnline(t.Context(), away); err != nil {
		t.Fatal(err)
	}
	now := e.WaitPodReady(t, pod)
	if before, after := pod.Status.ContainerStatuses[0], now.Status.ContainerStatuses[0]; before.ContainerID != after.ContainerID || before.RestartCount != after.RestartCount {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
}

// A Node that aranya did not make is never touched; the conflict is told.
func TestForeignNodeOfTheSameName(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	name := suite.Name("foreign")
	foreign, err := e.Kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"whose": "theirs"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = e.Kube.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	e.Apply(t, manifest(name, "{}"))
	token, err := e.Cluster.Token(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := enrol(t, e, token, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, e, cert); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, 30*time.Second, "the conflict is a condition", func(ctx context.Context) error {
		ed, err := e.Dynamic.Resource(edgeDevices).Namespace("edge").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(ed.Object, "status", "conditions")
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok && m["type"] == v1alpha1.EdgeDeviceNodeReady && m["reason"] == "NodeNameConflict" {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", conditions)
	})
	e.Kubectl(t, "-n", "edge", "delete", "ed", name)
	now, err := e.Kube.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || now.UID != foreign.UID || now.Labels[v1alpha1.LabelRole] != "" || now.Annotations[v1alpha1.AnnotationUID] != "" {
		t.Errorf("the node is now %+v, %v", now.ObjectMeta, err)
	}
}

// The Node, its Lease and its pods go with the device, though the device is not there to confirm.
func TestNodeGoesWithTheDevice(t *testing.T) {
	e := suite.Get(t)
	name, token := newDevice(t, e)
	cert, err := enrol(t, e, token, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, e, cert); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, 30*time.Second, "the node is made", func(ctx context.Context) error {
		_, err := e.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		return err
	})
	e.Kubectl(t, "-n", "edge", "delete", "ed", name, "--timeout=60s")
	suite.Eventually(t, 30*time.Second, "node and lease are gone", func(ctx context.Context) error {
		_, nodeErr := e.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		_, leaseErr := e.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, name, metav1.GetOptions{})
		if !apierrors.IsNotFound(nodeErr) || !apierrors.IsNotFound(leaseErr) {
			return errors.Join(errors.New("still there"), nodeErr, leaseErr)
		}
		return nil
	})
}

// A Node that is not wanted is not made; the device is reachable all the same.
func TestDeviceWithoutNode(t *testing.T) {
	e := suite.Get(t)
	name := suite.Name("nodeless")
	e.Apply(t, manifest(name, "{node: {disabled: true}}"))
	token, err := e.Cluster.Token(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := enrol(t, e, token, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, e, cert); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, 30*time.Second, "the device is online", func(ctx context.Context) error {
		return phaseIs(ctx, e, name, v1alpha1.EdgeDeviceOnline)
	})
	suite.Never(t, 2*time.Second, "a node", func(ctx context.Context) error {
		_, err := e.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return errors.New("there is one")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

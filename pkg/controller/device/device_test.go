package device

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

func TestDirectory(t *testing.T) {
	ed := &aranya.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"},
		Status:     aranya.EdgeDeviceStatus{Phase: aranya.EdgeDeviceOnline},
	}
	deleting := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "deleting", UID: "u", DeletionTimestamp: &metav1.Time{Time: time.Now()}, Finalizers: []string{"x"}}}
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, o := range []*aranya.EdgeDevice{ed, deleting} {
		if err := indexer.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	client := fake.NewClientset(ed, deleting)
	d := Directory{Lister: aranyalisters.NewEdgeDeviceLister(indexer), Client: client}

	if got, err := d.Get("ns", "d"); err != nil || got.UID != "u" {
		t.Errorf("get: %v %v", got, err)
	}
	if _, err := d.Get("ns", "no"); !apierrors.IsNotFound(err) {
		t.Errorf("get of what does not exist: %v", err)
	}
	certificate := aranya.CertificateStatus{SerialNumber: "5", PublicKeySHA256: "a"}
	if err := d.SetCertificate(context.Background(), gateway.Device{Namespace: "ns", Name: "d", UID: "u"}, certificate, true); err != nil {
		t.Fatal(err)
	}
	got, err := client.AranyaV1alpha1().EdgeDevices("ns").Get(context.Background(), "d", metav1.GetOptions{})
	if err != nil || got.Status.Certificate == nil || got.Status.Certificate.SerialNumber != "5" || got.Status.Phase != aranya.EdgeDeviceOnline {
		t.Errorf("status: %+v %v", got.Status, err)
	}
	if err := d.SetCertificate(context.Background(), gateway.Device{Namespace: "ns", Name: "d", UID: "former"}, certificate, true); !apierrors.IsConflict(err) {
		t.Errorf("certificate for another EdgeDevice of that name: %v", err)
	}
	for key, renewed := range map[string]bool{"a": true, "b": false} {
		next := aranya.CertificateStatus{SerialNumber: "6", PublicKeySHA256: key}
		err := d.SetCertificate(context.Background(), gateway.Device{Namespace: "ns", Name: "d", UID: "u"}, next, false)
		if renewed != (err == nil) || (err != nil && !apierrors.IsConflict(err)) {
			t.Errorf("renewal with key %q: %v", key, err)
		}
	}
	if err := d.SetCertificate(context.Background(), gateway.Device{Namespace: "ns", Name: "deleting", UID: "u"}, certificate, true); !apierrors.IsConflict(err) {
		t.Errorf("certificate for what is being deleted: %v", err)
	}
}

func TestNodeReadyCondition(t *testing.T) {
	ready := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "DeviceDisconnected", Message: "lost"}}}}
	for name, tt := range map[string]struct {
		disabled bool
		node     *corev1.Node
		conflict bool
		status   metav1.ConditionStatus
		reason   string
	}{
		"none yet":      {status: metav1.ConditionFalse, reason: aranya.ReasonNoNode},
		"disabled":      {disabled: true, status: metav1.ConditionFalse, reason: aranya.ReasonNodeDisabled},
		"conflict":      {conflict: true, status: metav1.ConditionFalse, reason: aranya.ReasonConflict},
		"mirrored":      {node: ready, status: metav1.ConditionUnknown, reason: "DeviceDisconnected"},
		"being removed": {disabled: true, node: ready, status: metav1.ConditionUnknown, reason: "DeviceDisconnected"},
		"no condition":  {node: &corev1.Node{}, status: metav1.ConditionUnknown, reason: aranya.ReasonNoNode},
		"no reason": {node: &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}},
			status: metav1.ConditionTrue, reason: "NodeStatusTrue"},
	} {
		t.Run(name, func(t *testing.T) {
			ed := &aranya.EdgeDevice{Spec: aranya.EdgeDeviceSpec{Node: aranya.NodeSpec{Disabled: tt.disabled}}}
			nodeReady(ed, tt.node, tt.conflict, func(_ string, s metav1.ConditionStatus, reason, _ string) {
				if s != tt.status || reason != tt.reason {
					t.Errorf("%s %s, want %s %s", s, reason, tt.status, tt.reason)
				}
			})
		})
	}
}

func TestHostOfAddress(t *testing.T) {
	for address, want := range map[string]string{"192.0.2.1:80": "192.0.2.1", "[fd00::1]:80": "fd00::1", "mqtt broker": "mqtt broker"} {
		if got := host(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func TestSlimDevice(t *testing.T) {
	device := &aranya.DeviceInfo{OperatingSystem: "linux", KernelVersion: "6.1", Capacity: corev1.ResourceList{}}
	conditions := []metav1.Condition{{Type: aranya.EdgeDeviceConnected, Reason: "LinkUp", Message: "up"}}
	ed := &aranya.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{Name: "d", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}},
		Status: aranya.EdgeDeviceStatus{
			Link: &aranya.LinkStatus{BytesIn: 1}, Traffic: []aranya.DeviceTraffic{{}}, Usage: corev1.ResourceList{"cpu": {}},
			Device: device.DeepCopy(), AgentVersion: "v1", Conditions: append([]metav1.Condition{}, conditions...),
		},
	}
	want := &aranya.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Status:     aranya.EdgeDeviceStatus{Device: device, AgentVersion: "v1", Conditions: conditions},
	}
	if _, err := SlimDevice(ed); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, ed); diff != "" {
		t.Error(diff)
	}
}

func TestSlimNode(t *testing.T) {
	node := func(annotations map[string]string, images ...corev1.ContainerImage) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"a": "1", "b": "2"}, Annotations: annotations},
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Reason: "R", Message: "M"}},
				NodeInfo:   corev1.NodeSystemInfo{KernelVersion: "6.1"}, Images: images,
			},
		}
	}
	image := corev1.ContainerImage{Names: []string{"i"}}
	own := map[string]string{aranya.AnnotationUID: "u"}
	for name, tt := range map[string]struct{ have, want *corev1.Node }{
		"own":     {node(own, image), node(own, image)},
		"foreign": {node(nil, image), node(nil)},
	} {
		if _, err := slim(tt.have); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, tt.have); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

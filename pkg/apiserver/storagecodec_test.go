package apiserver

import (
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// What is stored comes back as it was, whatever lies in memory once.
func TestStorageCodec(t *testing.T) {
	codec := storageCodec{scheme.Codecs.LegacyCodec(v1alpha1.SchemeGroupVersion)}
	ed := &v1alpha1.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{
			Name: "d", Namespace: "edge", Finalizers: []string{"f"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", Operation: metav1.ManagedFieldsOperationUpdate, Subresource: "status"}},
		},
		Status: v1alpha1.EdgeDeviceStatus{
			Phase: v1alpha1.EdgeDeviceOnline, AgentVersion: "v1",
			Conditions: []metav1.Condition{{Type: "Connected", Status: metav1.ConditionTrue, Reason: "R", Message: "The device is connected"}},
			Device: &v1alpha1.DeviceInfo{
				KernelVersion: "6.1", MachineID: "x", Capacity: corev1.ResourceList{"cpu": resource.MustParse("4")},
				Allocatable: corev1.ResourceList{"cpu": resource.MustParse("3")},
			},
		},
	}
	data, err := runtime.Encode(codec, ed)
	if err != nil {
		t.Fatal(err)
	}
	decode := func(c runtime.Codec) *aranya.EdgeDevice {
		t.Helper()
		into := &aranya.EdgeDevice{}
		object, _, err := c.Decode(data, nil, into)
		if err != nil {
			t.Fatal(err)
		}
		if object != runtime.Object(into) {
			t.Fatalf("decoded into another object, %T", object)
		}
		return into
	}
	first, second := decode(codec), decode(codec)
	if diff := cmp.Diff(decode(codec.Codec), first); diff != "" {
		t.Error(diff)
	}
	a, b := first.Status.Conditions[0].Message, second.Status.Conditions[0].Message
	if a == "" || unsafe.StringData(a) != unsafe.StringData(b) {
		t.Error("the messages of two versions lie in two places")
	}
	if _, _, err := codec.Decode([]byte("no object"), nil, &aranya.EdgeDevice{}); err == nil {
		t.Error("decoded what is no object")
	}
}

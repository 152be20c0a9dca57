package edgedevice

import (
	"testing"
	"time"
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

var storageMediaTypes = []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf}

// storedDevice returns an EdgeDevice as it is stored of a device that is connected.
func storedDevice() *v1alpha1.EdgeDevice {
	now := metav1.Now().Rfc3339Copy()
	resources := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8125000Ki"), corev1.ResourcePods: resource.MustParse("110"),
	}
	ed := &v1alpha1.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{
			Name: "camera-1", Namespace: "edge", UID: "5b7bc832-790f-4bd5-afef-84732c39f557", CreationTimestamp: now, Generation: 1,
			Labels: map[string]string{"site": "s-7"}, Finalizers: []string{v1alpha1.FinalizerNode},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "m", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: v1alpha1.SchemeGroupVersion.String(), Time: &now,
				FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:agentVersion":{},"f:device":{".":{},"f:kernelVersion":{}},"f:phase":{}}}`),
				Subresource: "status",
			}},
		},
		Status: v1alpha1.EdgeDeviceStatus{
			Phase: v1alpha1.EdgeDeviceOnline, AgentVersion: "v1.0.0", NodeName: "camera-1", LastSeen: &now, ObservedGeneration: 1,
			Device: &v1alpha1.DeviceInfo{
				OperatingSystem: "linux", Architecture: "arm64", KernelVersion: "6.1.0", OSImage: "Debian GNU/Linux 12", MachineID: "m", BootID: "b",
				Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}, Capacity: resources, Allocatable: resources,
			},
			Certificate: &v1alpha1.CertificateStatus{SerialNumber: "2a", PublicKeySHA256: "2c26b46b68ffc68ff99b453c1d304134", NotAfter: now, EnrolledAt: &metav1.MicroTime{Time: now.Add(time.Microsecond)}},
		},
	}
	for _, kind := range []string{v1alpha1.EdgeDeviceEnrolled, v1alpha1.EdgeDeviceConnected, v1alpha1.EdgeDeviceNodeReady} {
		ed.Status.Conditions = append(ed.Status.Conditions, metav1.Condition{
			Type: kind, Status: metav1.ConditionTrue, Reason: "R", Message: "The device is connected", LastTransitionTime: now, ObservedGeneration: 1,
		})
	}
	scheme.Scheme.Default(ed)
	return ed
}

// What is stored comes back as it was, whatever lies in memory once.
func TestStorageCodec(t *testing.T) {
	for _, mediaType := range storageMediaTypes {
		t.Run(mediaType, func(t *testing.T) {
			codec, _, err := NewStorageCodec(mediaType)
			if err != nil {
				t.Fatal(err)
			}
			testStorageCodec(t, codec.(storageCodec))
		})
	}
}

func testStorageCodec(t *testing.T, codec storageCodec) {
	ed := storedDevice()
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
	same := func() bool {
		a, b := first.Status.Conditions[0].Message, second.Status.Conditions[0].Message
		return a != "" && unsafe.StringData(a) == unsafe.StringData(b)
	}
	for range 10 { // a collection of garbage in between may forget the text
		if same() {
			break
		}
		first, second = decode(codec), decode(codec)
	}
	if !same() {
		t.Error("the messages of two versions lie in two places")
	}
	if _, _, err := codec.Decode([]byte("no object"), nil, &aranya.EdgeDevice{}); err == nil {
		t.Error("decoded what is no object")
	}
}

// BenchmarkStorageCodec measures what each read and write of an EdgeDevice costs.
func BenchmarkStorageCodec(b *testing.B) {
	for _, mediaType := range storageMediaTypes {
		codec, _, err := NewStorageCodec(mediaType)
		if err != nil {
			b.Fatal(err)
		}
		object := &aranya.EdgeDevice{}
		if err := scheme.Scheme.Convert(storedDevice(), object, nil); err != nil {
			b.Fatal(err)
		}
		data, err := runtime.Encode(codec, object)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("encode "+mediaType, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := runtime.Encode(codec, object); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("decode "+mediaType, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := codec.Decode(data, nil, &aranya.EdgeDevice{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

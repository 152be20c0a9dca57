package edgedevice

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// newDevice returns an EdgeDevice as it is after decoding and defaulting.
func newDevice(t *testing.T, name string) *aranya.EdgeDevice {
	t.Helper()
	external := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "edge"}}
	scheme.Scheme.Default(external)
	device := &aranya.EdgeDevice{}
	if err := scheme.Scheme.Convert(external, device, nil); err != nil {
		t.Fatal(err)
	}
	return device
}

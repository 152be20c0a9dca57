package device

import (
	"context"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

// Directory finds EdgeDevices and records their certificates, for the gateway.
type Directory struct {
	Lister aranyalisters.EdgeDeviceLister
	Client versioned.Interface
}

// Get returns an EdgeDevice from memory. Not to be modified. The error is an API status.
func (d Directory) Get(namespace, name string) (*aranya.EdgeDevice, error) {
	return d.Lister.EdgeDevices(namespace).Get(name)
}

// SetCertificate records the certificate in force. It fails with a conflict if the EdgeDevice of that
// name has another UID.
func (d Directory) SetCertificate(ctx context.Context, device gateway.Device, certificate aranya.CertificateStatus) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": device.UID},
		"status":   map[string]any{"certificate": certificate},
	})
	if err != nil {
		return err
	}
	_, err = d.Client.AranyaV1alpha1().EdgeDevices(device.Namespace).Patch(ctx, device.Name,
		types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "aranya-gateway"}, "status")
	return err
}

package device

import (
	"context"
	"encoding/json"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

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
// name has another UID and, unless rekey is set, if the certificate in force is for another key.
func (d Directory) SetCertificate(ctx context.Context, device gateway.Device, certificate aranya.CertificateStatus, rekey bool) error {
	if rekey {
		return d.patchCertificate(ctx, device, certificate, "")
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		ed, err := d.Client.AranyaV1alpha1().EdgeDevices(device.Namespace).Get(ctx, device.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if current := ed.Status.Certificate; current == nil || current.PublicKeySHA256 != certificate.PublicKeySHA256 {
			return apierrors.NewConflict(aranya.SchemeGroupVersion.WithResource("edgedevices").GroupResource(), device.Name,
				errors.New("the certificate in force is for another key"))
		}
		return d.patchCertificate(ctx, device, certificate, ed.ResourceVersion)
	})
}

func (d Directory) patchCertificate(ctx context.Context, device gateway.Device, certificate aranya.CertificateStatus, resourceVersion string) error {
	metadata := map[string]any{"uid": device.UID}
	if resourceVersion != "" {
		metadata["resourceVersion"] = resourceVersion
	}
	if ed, err := d.Get(device.Namespace, device.Name); err == nil && ed.UID == device.UID && ed.DeletionTimestamp != nil {
		return apierrors.NewConflict(aranya.SchemeGroupVersion.WithResource("edgedevices").GroupResource(), device.Name,
			errors.New("the EdgeDevice is being deleted"))
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": metadata,
		"status":   map[string]any{"certificate": certificate},
	})
	if err != nil {
		return err
	}
	_, err = d.Client.AranyaV1alpha1().EdgeDevices(device.Namespace).Patch(ctx, device.Name,
		types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "aranya-gateway"}, "status")
	return err
}

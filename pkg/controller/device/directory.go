package device

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// Stored returns an EdgeDevice as it is stored.
func (d Directory) Stored(ctx context.Context, namespace, name string) (*aranya.EdgeDevice, error) {
	return d.Client.AranyaV1alpha1().EdgeDevices(namespace).Get(ctx, name, metav1.GetOptions{})
}

// SetCertificate implements gateway.Directory.
func (d Directory) SetCertificate(ctx context.Context, device gateway.Device, certificate aranya.CertificateStatus, token time.Time) error {
	set := func(ed *aranya.EdgeDevice) error {
		certified, err := gateway.Certified(ed, device, certificate, token)
		if err != nil {
			return err
		}
		next := ed.DeepCopy()
		next.Status.Certificate = certified
		// It fails with a conflict if anything was written since: two cannot use the same token.
		_, err = d.Client.AranyaV1alpha1().EdgeDevices(device.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
		return err
	}
	if ed, err := d.Get(device.Namespace, device.Name); err == nil {
		if err := set(ed); !mayLag(err) {
			return err
		}
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		ed, err := d.Stored(ctx, device.Namespace, device.Name)
		if err != nil {
			return err
		}
		return set(ed)
	})
}

// mayLag tells whether it may be for a cache that is behind that a certificate could not be set.
func mayLag(err error) bool {
	return apierrors.IsConflict(err) || errors.Is(err, gateway.ErrTokenUsed) || errors.Is(err, gateway.ErrReplaced)
}

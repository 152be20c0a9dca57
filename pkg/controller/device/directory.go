package device

import (
	"context"
	"errors"

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

// SetCertificate records the certificate in force. It fails with a conflict if the EdgeDevice of that
// name has another UID or is being deleted and, unless rekey is set, if the certificate in force is for
// another key.
func (d Directory) SetCertificate(ctx context.Context, device gateway.Device, certificate aranya.CertificateStatus, rekey bool) error {
	client := d.Client.AranyaV1alpha1().EdgeDevices(device.Namespace)
	ed, err := d.Get(device.Namespace, device.Name) // what lags behind makes a conflict
	if err != nil {
		ed = nil
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if ed == nil {
			if ed, err = client.Get(ctx, device.Name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		next := ed.DeepCopy()
		ed = nil
		if err := mayHold(next, device, certificate, rekey); err != nil {
			return err
		}
		next.Status.Certificate = &certificate
		_, err := client.UpdateStatus(ctx, next, metav1.UpdateOptions{})
		return err
	})
}

// mayHold says why an EdgeDevice cannot be given a certificate.
func mayHold(ed *aranya.EdgeDevice, device gateway.Device, certificate aranya.CertificateStatus, rekey bool) error {
	conflict := func(reason string) error {
		return apierrors.NewConflict(aranya.SchemeGroupVersion.WithResource("edgedevices").GroupResource(), device.Name, errors.New(reason))
	}
	current := ed.Status.Certificate
	switch {
	case ed.UID != device.UID:
		return conflict("there is another EdgeDevice of that name now")
	case ed.DeletionTimestamp != nil:
		return conflict("the EdgeDevice is being deleted")
	case !rekey && (current == nil || current.PublicKeySHA256 != certificate.PublicKeySHA256):
		return conflict("the certificate in force is for another key")
	}
	return nil
}

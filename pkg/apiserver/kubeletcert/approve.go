package kubeletcert

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
	"k8s.io/klog/v2"
)

// approvingClient approves each CertificateSigningRequest that is created through it, and no other: it
// never looks at requests that it did not make, so that it cannot be led to approve somebody else's.
type approvingClient struct {
	kubernetes.Interface
}

func (c approvingClient) CertificatesV1() certificatesclient.CertificatesV1Interface {
	return approvingCertificates{c.Interface.CertificatesV1()}
}

type approvingCertificates struct {
	certificatesclient.CertificatesV1Interface
}

func (c approvingCertificates) CertificateSigningRequests() certificatesclient.CertificateSigningRequestInterface {
	return approvingRequests{c.CertificatesV1Interface.CertificateSigningRequests()}
}

type approvingRequests struct {
	certificatesclient.CertificateSigningRequestInterface
}

// Create creates the request and approves it. Who takes away aranya's right to approve wants to do it
// by hand: then the request is left to wait.
func (c approvingRequests) Create(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, opts metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	created, err := c.CertificateSigningRequestInterface.Create(ctx, csr, opts)
	if err != nil {
		return nil, err
	}
	approved := created.DeepCopy()
	approved.Status.Conditions = append(approved.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type:    certificatesv1.CertificateApproved,
		Status:  corev1.ConditionTrue,
		Reason:  "AranyaKubeletServing",
		Message: "aranya-apiserver approved the certificate that it requested for its kubelet endpoint",
	})
	_, err = c.UpdateApproval(ctx, created.Name, approved, metav1.UpdateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		klog.FromContext(ctx).Info("aranya may not approve its kubelet-serving certificate; waiting for somebody to do it",
			"command", "kubectl certificate approve "+created.Name, "err", err)
	case err != nil:
		return nil, fmt.Errorf("approve the CertificateSigningRequest %s: %w", created.Name, err)
	}
	return created, nil
}

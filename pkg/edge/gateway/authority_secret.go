package gateway

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	// AuthoritySecret is the name of the Secret that holds the device CA: tls.crt and tls.key, and
	// optionally in ca.crt the certificates of other CAs that are trusted: the next one, before devices
	// meet it, or a former one. docs/security.md says how to replace the CA.
	AuthoritySecret = "aranya-device-ca"

	authorityTrustedKey = "ca.crt"
)

// LoadOrCreateAuthority returns the device CA from the Secret AuthoritySecret, which it creates if
// there is none. Several replicas may do so at once. A Secret that cannot be used is an error and is
// left alone: a new CA would shut out every device.
func LoadOrCreateAuthority(ctx context.Context, client kubernetes.Interface, namespace string) (*Authority, error) {
	secrets := client.CoreV1().Secrets(namespace)
	secret, err := secrets.Get(ctx, AuthoritySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret, err = newAuthoritySecret(namespace)
		if err != nil {
			return nil, err
		}
		created, err := secrets.Create(ctx, secret, metav1.CreateOptions{})
		switch {
		case err == nil:
			klog.FromContext(ctx).Info("Created the device CA", "secret", klog.KObj(created))
			secret = created
		case apierrors.IsAlreadyExists(err): // another replica was first
			if secret, err = secrets.Get(ctx, AuthoritySecret, metav1.GetOptions{}); err != nil {
				return nil, fmt.Errorf("reading the device CA from Secret %s/%s: %w", namespace, AuthoritySecret, err)
			}
		default:
			return nil, fmt.Errorf("creating the device CA in Secret %s/%s: %w", namespace, AuthoritySecret, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("reading the device CA from Secret %s/%s: %w", namespace, AuthoritySecret, err)
	}
	a, err := authorityFromSecret(secret, time.Now())
	if err != nil {
		return nil, fmt.Errorf("the device CA in Secret %s/%s cannot be used: %w; restore the Secret from a backup, "+
			"or delete it and enrol every device anew", namespace, AuthoritySecret, err)
	}
	return a, nil
}

func newAuthoritySecret(namespace string) (*corev1.Secret, error) {
	cert, key, err := makeAuthority(time.Now())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: AuthoritySecret, Namespace: namespace},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		},
	}, nil
}

func authorityFromSecret(secret *corev1.Secret, now time.Time) (*Authority, error) {
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	switch {
	case !ok:
		return nil, errors.New("its private key cannot sign")
	case !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("its certificate is not one of a CA")
	case now.After(cert.NotAfter):
		return nil, fmt.Errorf("it expired at %s", cert.NotAfter.UTC().Format(time.RFC3339))
	}
	trusted, err := parseCertificates(secret.Data[authorityTrustedKey])
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", authorityTrustedKey, err)
	}
	return newAuthority(cert, key, trusted)
}

package gateway

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	// AuthoritySecret is the name of the Secret that holds the device CA: tls.crt and tls.key, and
	// optionally in ca.crt the certificates of other CAs that are trusted: the next one, before devices
	// meet it, or a former one. docs/security.md says how to replace the CA.
	AuthoritySecret = "aranya-device-ca"

	authorityTrustedKey = "ca.crt"

	// keepInterval is how often it is looked whether the Secret is still there.
	keepInterval = time.Minute
)

// LoadOrCreateAuthority returns the device CA from the Secret AuthoritySecret, which it creates if
// there is none and enrolled names no devices, which would know no other CA. Several replicas may do so
// at once. A Secret that cannot be used is an error and is left alone: a new CA would shut out every device.
func LoadOrCreateAuthority(ctx context.Context, client kubernetes.Interface, namespace string,
	enrolled func(context.Context) ([]types.NamespacedName, error)) (*Authority, error) {
	secrets := client.CoreV1().Secrets(namespace)
	secret, err := secrets.Get(ctx, AuthoritySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		devices, err := enrolled(ctx)
		if err != nil {
			return nil, fmt.Errorf("looking for devices that know the CA of Secret %s/%s, which does not exist: %w", namespace, AuthoritySecret, err)
		}
		if len(devices) > 0 {
			return nil, fmt.Errorf("there is no Secret %s/%s, and %d enrolled devices, such as %s, know no CA but the one that was in it: "+
				"restore the Secret from a backup, or put a new CA there and enrol every device anew, see docs/security.md",
				namespace, AuthoritySecret, len(devices), devices[0])
		}
		if secret, err = createAuthoritySecret(ctx, client, namespace); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("reading the device CA from Secret %s/%s: %w", namespace, AuthoritySecret, err)
	}
	a, err := authorityFromSecret(secret, time.Now())
	if err != nil {
		return nil, fmt.Errorf("the device CA in Secret %s/%s cannot be used: %w; restore the Secret from a backup, "+
			"or put a new CA there and enrol every device anew, see docs/security.md", namespace, AuthoritySecret, err)
	}
	a.log(ctx)
	return a, nil
}

// log tells which CAs there are: whoever replaces the CA must know whether the next one is trusted.
func (a *Authority) log(ctx context.Context) {
	for i, cert := range a.bundle {
		use := "trusted"
		if i == 0 {
			use = "in force"
		}
		klog.FromContext(ctx).Info("Device CA", "use", use, "subject", cert.Subject.String(),
			"sha256", fmt.Sprintf("%x", sha256.Sum256(cert.Raw)), "notAfter", cert.NotAfter.UTC().Format(time.RFC3339))
	}
}

// createAuthoritySecret creates the Secret of a new CA, or returns that of another replica that was first.
func createAuthoritySecret(ctx context.Context, client kubernetes.Interface, namespace string) (*corev1.Secret, error) {
	secret, err := newAuthoritySecret(namespace)
	if err != nil {
		return nil, err
	}
	secrets := client.CoreV1().Secrets(namespace)
	created, err := secrets.Create(ctx, secret, metav1.CreateOptions{})
	switch {
	case err == nil:
		klog.FromContext(ctx).Info("Created the device CA", "secret", klog.KObj(created))
		return created, nil
	case apierrors.IsAlreadyExists(err):
		if created, err = secrets.Get(ctx, AuthoritySecret, metav1.GetOptions{}); err != nil {
			return nil, fmt.Errorf("reading the device CA from Secret %s/%s: %w", namespace, AuthoritySecret, err)
		}
		return created, nil
	}
	return nil, fmt.Errorf("creating the device CA in Secret %s/%s: %w", namespace, AuthoritySecret, err)
}

// KeepSecret creates the Secret of the device CA again whenever it is gone, until ctx ends: without it the
// next start would know none of the devices.
func (a *Authority) KeepSecret(ctx context.Context, client kubernetes.Interface) {
	last := a.secret
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		current, err := keepSecret(ctx, client, last)
		if err != nil {
			if ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Could not check the Secret of the device CA; trying again", "secret", klog.KObj(last))
			}
			return
		}
		last = current
	}, keepInterval)
}

// keepSecret returns the Secret as it is now, which may have changed since the start, or creates it as it was last.
func keepSecret(ctx context.Context, client kubernetes.Interface, last *corev1.Secret) (*corev1.Secret, error) {
	secrets := client.CoreV1().Secrets(last.Namespace)
	current, err := secrets.Get(ctx, last.Name, metav1.GetOptions{})
	switch {
	case err == nil:
		_, unusable := authorityFromSecret(current, time.Now())
		if unusable == nil {
			return current, nil
		}
		return nil, fmt.Errorf("the next start will fail with what is in it: %w", unusable)
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	lost := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: last.Name, Namespace: last.Namespace, Labels: last.Labels, Annotations: last.Annotations},
		Immutable:  last.Immutable, Type: last.Type, Data: last.Data,
	}
	if current, err = secrets.Create(ctx, lost, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("it was deleted, and cannot be created again: %w", err)
	}
	klog.FromContext(ctx).Info("The Secret of the device CA was deleted; created it again", "secret", klog.KObj(current))
	return current, nil
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
	a, err := newAuthority(cert, key, trusted)
	if err != nil {
		return nil, err
	}
	a.secret = secret
	return a, nil
}

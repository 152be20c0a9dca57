package gateway_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/test/framework/eventually"
)

const caNamespace = "aranya-system"

// newCA returns the Secret of a device CA.
func newCA(t *testing.T) *corev1.Secret {
	t.Helper()
	client := fake.NewClientset()
	if _, err := gateway.LoadOrCreateAuthority(t.Context(), client, caNamespace, gateway.NoDevices); err != nil {
		t.Fatal(err)
	}
	secret, err := client.CoreV1().Secrets(caNamespace).Get(t.Context(), gateway.AuthoritySecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// authorityWith is the device CA of a Secret that trusts others, too.
func authorityWith(t *testing.T, secret *corev1.Secret, trusted ...*corev1.Secret) *gateway.Authority {
	t.Helper()
	secret = secret.DeepCopy()
	for _, s := range trusted {
		secret.Data["ca.crt"] = append(secret.Data["ca.crt"], s.Data[corev1.TLSCertKey]...)
	}
	a, err := gateway.LoadOrCreateAuthority(t.Context(), fake.NewClientset(secret), caNamespace, gateway.NoDevices)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// The device CA is replaced as docs/security.md says, and nobody is shut out.
func TestReplaceCA(t *testing.T) {
	old, next := newCA(t), newCA(t)
	w := newWorld(t, func(c *gateway.Config) {
		c.Authority = authorityWith(t, old)
		c.CertificateLifetime = 20 * time.Second // by its dates 5 min more, so that it is due
	})
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	before := certificateIn(t, dir).Leaf
	w.stop()

	w.config.CertificateLifetime = time.Hour
	w.config.Authority = authorityWith(t, old, old, next)
	w.start(t)
	d := w.run(t, dir)
	receive(t, d.connected, "the device to connect")
	eventually.Holds(t, "the certificate was renewed", func() bool { return certificateIn(t, dir).Leaf.NotAfter.After(before.NotAfter) })
	d.stop()
	w.stop()

	w.config.Authority = authorityWith(t, next, next, old)
	w.start(t)
	d = w.run(t, dir)
	receive(t, d.connected, "the device to connect to a gateway of the next CA")
}

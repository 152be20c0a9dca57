package gateway

import (
	"context"
	"crypto/x509"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/pkg/edge/identity"
)

// NoDevices is for a first start.
func NoDevices(context.Context) ([]types.NamespacedName, error) { return nil, nil }

// NewTestAuthority makes a CA that is kept nowhere.
func NewTestAuthority(t testing.TB) *Authority {
	t.Helper()
	cert, key, err := makeAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAuthority(cert, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Certificate returns the CA certificate in force.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

func deviceCert(t *testing.T, a *Authority, lifetime time.Duration) *x509.Certificate {
	t.Helper()
	leaf, err := a.signServing(nil, time.Hour) // for its key
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.signDevice(&x509.CertificateRequest{PublicKey: leaf.Leaf.PublicKey},
		Device{Namespace: "edge", Name: "device-1", UID: "uid-1"}, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestVerifyDevice(t *testing.T) {
	a := NewTestAuthority(t)
	now := time.Now()
	cert := deviceCert(t, a, time.Hour)
	for name, c := range map[string]struct {
		cert *x509.Certificate
		now  time.Time
		ok   bool
	}{
		"valid":                   {cert, now, true},
		"expired":                 {cert, now.Add(48 * time.Hour), true}, // Renew decides
		"not yet valid":           {cert, now.Add(-time.Hour), false},
		"the CA itself":           {a.cert, now, false},
		"a gateway's certificate": {mustServing(t, a), now, false},
	} {
		if _, err := a.verifyDevice(c.cert, c.now); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.signDevice(&x509.CertificateRequest{PublicKey: cert.PublicKey}, Device{Namespace: "a/b", Name: "x", UID: "u"}, time.Hour); err == nil {
		t.Error("a certificate for a name that cannot be was issued")
	}
}

func mustServing(t *testing.T, a *Authority) *x509.Certificate {
	t.Helper()
	c, err := a.signServing([]string{"10.1.2.3", "edge.example.com", "", "::1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestServingCertificate(t *testing.T) {
	a := NewTestAuthority(t)
	leaf := mustServing(t, a)
	for _, name := range []string{identity.GatewayName, "10.1.2.3", "edge.example.com", "::1"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	s := &servingCertificate{authority: a}
	now := time.Now()
	first, err := s.get(now)
	if err != nil {
		t.Fatal(err)
	}
	if same, _ := s.get(now.Add(servingLifetime / 2)); same != first {
		t.Error("the certificate was replaced too early")
	}
	if next, _ := s.get(now.Add(servingLifetime * 3 / 4)); next == first {
		t.Error("the certificate was not replaced in time")
	}
	if len(first.Certificate) != 2 || string(first.Certificate[1]) != string(a.cert.Raw) {
		t.Error("the chain does not hold the CA")
	}
}

// A device whose clock is slow trusts a gateway that has just started, if its clock is not behind the CA.
func TestServingCertificateForSlowClocks(t *testing.T) {
	now := time.Now()
	cert, key, err := makeAuthority(now.AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAuthority(cert, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &servingCertificate{authority: a}
	first, err := s.get(now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Leaf.Verify(x509.VerifyOptions{Roots: a.pool, CurrentTime: now.AddDate(0, -11, 0)}); err != nil {
		t.Error(err)
	}
	if same, _ := s.get(now.Add(servingLifetime / 2)); same != first {
		t.Error("the certificate was replaced too early")
	}
	// A clock that is set right moves no monotonic one.
	if next, _ := s.get(now.Round(0).Add(servingLifetime + time.Hour)); next == first {
		t.Error("the certificate is served though it has expired")
	}
}

// Nothing outlives the CA.
func TestNothingOutlivesTheCA(t *testing.T) {
	a := NewTestAuthority(t)
	if cert := deviceCert(t, a, 2*caLifetime); !cert.NotAfter.Equal(a.cert.NotAfter) {
		t.Errorf("valid until %s, the CA until %s", cert.NotAfter, a.cert.NotAfter)
	}
}

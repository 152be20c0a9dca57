package servingcert

import (
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	certutil "k8s.io/client-go/util/cert"
)

var (
	epoch    = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	dnsNames = []string{"aranya-apiserver.aranya-system.svc", "localhost"}
	ips      = []net.IP{net.IPv4(127, 0, 0, 1)}
)

// verify checks a serving certificate as kube-apiserver does.
func verify(t *testing.T, bundle []byte, l *leaf, now time.Time) {
	t.Helper()
	certs, err := certutil.ParseCertsPEM(bundle)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	for _, c := range certs {
		roots.AddCert(c)
	}
	if _, err := l.cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: dnsNames[0], CurrentTime: now}); err != nil {
		t.Fatalf("at %s: %v", now, err)
	}
}

// TestRotationNeverBreaksTrust walks through ten years and several CAs with a client that learns of
// a new bundle a day late, and a replica that is as late to replace its certificate.
func TestRotationNeverBreaksTrust(t *testing.T) {
	s, err := newState(epoch)
	if err != nil {
		t.Fatal(err)
	}
	served, err := s.current.issue(epoch, dnsNames, ips)
	if err != nil {
		t.Fatal(err)
	}
	known, err := s.bundle()
	if err != nil {
		t.Fatal(err)
	}
	signers := map[string]bool{}
	for now := epoch; now.Before(epoch.AddDate(10, 0, 0)); now = now.Add(12 * time.Hour) {
		before, err := s.bundle()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.advance(now); err != nil {
			t.Fatal(err)
		}
		verify(t, known, served, now)
		if !served.usable(now, s.current.cert) {
			if served, err = s.current.issue(now, dnsNames, ips); err != nil {
				t.Fatal(err)
			}
		}
		verify(t, known, served, now)
		signers[s.current.cert.Subject.CommonName] = true
		if next := s.nextStep(); next.Before(now) {
			t.Fatalf("at %s the next step is in the past: %s", now, next)
		}
		if certs, _ := certutil.ParseCertsPEM(before); len(certs) > 3 {
			t.Fatalf("at %s the bundle has %d CAs", now, len(certs))
		}
		known = before
	}
	if len(signers) < 4 {
		t.Errorf("only %d CAs signed in ten years: they are not rotated", len(signers))
	}
}

func TestStateSurvivesTheSecret(t *testing.T) {
	s, err := newState(epoch)
	if err != nil {
		t.Fatal(err)
	}
	var at time.Time
	for _, what := range []string{"one CA", "next published", "next took over", "previous dropped"} {
		secret, err := s.secret("aranya-system")
		if err != nil {
			t.Fatal(err)
		}
		read, err := parseState(secret)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		want, _ := s.bundle()
		if got, _ := read.bundle(); string(got) != string(want) {
			t.Errorf("%s: the bundle changed on the way through the Secret", what)
		}
		if string(secret.Data[keyBundle]) != string(want) {
			t.Errorf("%s: %s is not the bundle", what, keyBundle)
		}
		at = s.nextStep()
		changed, err := s.advance(at)
		if err != nil || !changed {
			t.Fatalf("after %q: advance at nextStep: changed %t, error %v", what, changed, err)
		}
	}
}

func TestExpiredCAIsReplaced(t *testing.T) {
	s, err := newState(epoch)
	if err != nil {
		t.Fatal(err)
	}
	old := s.current
	now := epoch.Add(caLifetime + time.Hour)
	if changed, err := s.advance(now); err != nil || !changed {
		t.Fatalf("changed %t, error %v", changed, err)
	}
	if s.current == old || s.next != nil || s.previous != nil {
		t.Errorf("want a fresh state, got %+v", s)
	}
}

func TestParseStateErrors(t *testing.T) {
	good, err := newState(epoch)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newState(epoch)
	if err != nil {
		t.Fatal(err)
	}
	served, err := good.current.issue(epoch, dnsNames, ips)
	if err != nil {
		t.Fatal(err)
	}
	otherSecret, err := other.secret("")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*corev1.Secret)
		want   string
	}{
		"no certificate": {func(s *corev1.Secret) { delete(s.Data, keyCurrentCert) }, "tls.crt is missing"},
		"no key":         {func(s *corev1.Secret) { delete(s.Data, keyCurrentKey) }, "tls.key is missing"},
		"garbage":        {func(s *corev1.Secret) { s.Data[keyCurrentCert] = []byte("x") }, "tls.crt: "},
		"garbage key":    {func(s *corev1.Secret) { s.Data[keyCurrentKey] = []byte("x") }, "tls.key: "},
		"key of another": {func(s *corev1.Secret) { s.Data[keyCurrentKey] = otherSecret.Data[keyCurrentKey] }, "tls.key is not the key of tls.crt"},
		"no CA": {func(s *corev1.Secret) {
			s.Data[keyCurrentCert], s.Data[keyCurrentKey] = served.certPEM, served.keyPEM
		}, "tls.crt is not a CA certificate"},
		"next without key": {func(s *corev1.Secret) { s.Data[keyNextCert] = otherSecret.Data[keyCurrentCert] }, "next.key is missing"},
		"garbage before":   {func(s *corev1.Secret) { s.Data[keyPrevious] = []byte("x") }, "previous.crt: "},
	} {
		t.Run(name, func(t *testing.T) {
			secret, err := good.secret("")
			if err != nil {
				t.Fatal(err)
			}
			test.change(secret)
			if _, err := parseState(secret); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

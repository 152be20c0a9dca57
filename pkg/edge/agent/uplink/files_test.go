package uplink

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/identity"
)

// issue makes an identity as a server would.
func issue(t *testing.T, name string, change ...func(*x509.Certificate)) *deviceIdentity {
	t.Helper()
	caKey, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	ca := certify(t, &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "ca"},
	}, nil, caKey, caKey)
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{identity.Device{Namespace: "edge", Name: name, UID: "uid"}.URI()},
	}
	for _, f := range change {
		f(cert)
	}
	cert = certify(t, cert, ca, key, caKey)
	return &deviceIdentity{device: identity.Device{Namespace: "edge", Name: name, UID: "uid"}, key: key, cert: cert, ca: []*x509.Certificate{ca}, tokenID: "token-of-" + name}
}

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := loadIdentity(dir); !errors.Is(err, ErrNotEnrolled) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "arhat join") {
		t.Errorf("loading nothing: %v", err)
	}
	for _, name := range []string{"one", "two"} {
		id := issue(t, name)
		if err := id.save(dir); err != nil {
			t.Fatal(err)
		}
		got, err := loadIdentity(dir)
		if err != nil || got.device.Name != name || got.tokenID != id.tokenID || !got.cert.Equal(id.cert) || len(got.ca) != 1 {
			t.Fatalf("loaded %+v, error %v", got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, identityDir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder %v, error %v", info.Mode(), err)
	}
	names, err := os.ReadDir(filepath.Join(dir, identityDir))
	if err != nil || len(names) != len(identityFiles) {
		t.Errorf("left %v, error %v", names, err)
	}
}

// Wherever a change is cut short, either the old identity is there or the new one, whole.
func TestCrashDuringSave(t *testing.T) {
	old, next := issue(t, "old"), issue(t, "next")
	whole := t.TempDir()
	if err := next.save(whole); err != nil {
		t.Fatal(err)
	}
	content := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(whole, identityDir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	steps := 2 * len(identityFiles) // first all are written beside the old ones, then all are renamed
	for crash := range steps + 1 {
		dir := t.TempDir()
		if err := old.save(dir); err != nil {
			t.Fatal(err)
		}
		for step := range crash {
			path := filepath.Join(dir, identityDir, identityFiles[step%len(identityFiles)])
			var err error
			if step < len(identityFiles) {
				err = os.WriteFile(path+newSuffix, content(filepath.Base(path)), 0o600)
			} else {
				err = os.Rename(path+newSuffix, path)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		want := "old"
		if crash >= len(identityFiles) {
			want = "next"
		}
		got, err := loadIdentity(dir)
		if err != nil || got.device.Name != want {
			t.Errorf("after %d of %d steps: %v, error %v", crash, steps, got, err)
		}
		if again, err := loadIdentity(dir); err != nil || again.device.Name != want {
			t.Errorf("after %d of %d steps, the second time: %v", crash, steps, err)
		}
	}
	// A certificate that was being written does not count, and is not in the way of the next.
	dir := t.TempDir()
	if err := old.save(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, identityDir, certFile+partSuffix), content(certFile)[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"old", "next"} {
		if got, err := loadIdentity(dir); err != nil || got.device.Name != want {
			t.Errorf("with a part of a certificate: %v, want %s, error %v", got, want, err)
		}
		if err := next.save(dir); err != nil {
			t.Error(err)
		}
	}
}

func TestLoadDamaged(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"key of another": func(dir string) error {
			other := t.TempDir()
			if err := issue(t, "other").save(other); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, identityDir, keyFile), filepath.Join(dir, keyFile))
		},
		"no key":       func(dir string) error { return os.Remove(filepath.Join(dir, keyFile)) },
		"no CA":        func(dir string) error { return os.Remove(filepath.Join(dir, caFile)) },
		"empty cert":   func(dir string) error { return os.WriteFile(filepath.Join(dir, certFile), nil, 0o600) },
		"garbage key":  func(dir string) error { return os.WriteFile(filepath.Join(dir, keyFile), []byte("x"), 0o600) },
		"garbage cert": func(dir string) error { return os.WriteFile(filepath.Join(dir, certFile), []byte("x"), 0o600) },
		"CA of another": func(dir string) error {
			other := t.TempDir()
			if err := issue(t, "other").save(other); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, identityDir, caFile), filepath.Join(dir, caFile))
		},
	} {
		dir := t.TempDir()
		if err := issue(t, "device").save(dir); err != nil {
			t.Fatal(err)
		}
		if err := damage(filepath.Join(dir, identityDir)); err != nil {
			t.Fatal(err)
		}
		_, err := loadIdentity(dir)
		if err == nil || errors.Is(err, ErrNotEnrolled) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "arhat join") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An identity that this user or this disk cannot read need not be replaced.
func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, identityDir, keyFile)
	if err := errors.Join(issue(t, "device").save(dir), os.Remove(key), os.Mkdir(key, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(dir); err == nil || !strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "arhat join") {
		t.Errorf("got %v", err)
	}
}

// A server cannot make a device take just anything for its identity.
func TestNewIdentityChecks(t *testing.T) {
	good, other := issue(t, "device"), issue(t, "other")
	noURI := issue(t, "device", func(c *x509.Certificate) { c.URIs = nil })
	server := issue(t, "device", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	for _, c := range []struct {
		name  string
		id    *deviceIdentity
		cert  []byte
		ca    [][]byte
		wrong string
	}{
		{"good", good, good.cert.Raw, [][]byte{good.ca[0].Raw}, ""},
		{"another key", good, other.cert.Raw, [][]byte{other.ca[0].Raw}, "another key"},
		{"another CA", good, good.cert.Raw, [][]byte{other.ca[0].Raw}, "not issued by the CA"},
		{"no CA", good, good.cert.Raw, nil, "CA certificates"},
		{"not a CA", good, good.cert.Raw, [][]byte{good.cert.Raw}, "not one"},
		{"garbage", good, []byte("x"), [][]byte{good.ca[0].Raw}, "cannot be read"},
		{"no name", noURI, noURI.cert.Raw, [][]byte{noURI.ca[0].Raw}, "names no device"},
		{"usage", server, server.cert.Raw, [][]byte{server.ca[0].Raw}, "not issued by the CA"},
	} {
		_, err := newIdentity(c.id.key, c.cert, c.ca, "")
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestRenewPlan(t *testing.T) {
	start := time.Now()
	id := &deviceIdentity{cert: &x509.Certificate{NotBefore: start, NotAfter: start.Add(30 * 24 * time.Hour)}}
	for range 1000 {
		if d := renewPlan(id, start); d < 20*24*time.Hour || d > 22*24*time.Hour {
			t.Fatalf("renews after %s", d)
		}
	}
	if d := renewPlan(id, start.Add(25*24*time.Hour)); d > 0 {
		t.Errorf("late, and still waits %s", d)
	}
}

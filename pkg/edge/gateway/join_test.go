package gateway_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/identity"
)

func TestJoin(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	dir := t.TempDir()
	join := func(token string) error {
		return joinAndLeave(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: dir})
	}
	if err := join(""); !errors.Is(err, uplink.ErrNotEnrolled) {
		t.Errorf("Join without token: %v", err)
	}
	token := w.token(t, ed, time.Hour)
	if err := join(token); err != nil {
		t.Fatal(err)
	}
	first := certificateIn(t, dir)
	if err := join(""); err != nil {
		t.Errorf("Join of an enrolled device: %v", err)
	}
	if err := join(token); err != nil {
		t.Errorf("Join with the token that was used: %v", err)
	}
	if !certificateIn(t, dir).Leaf.Equal(first.Leaf) {
		t.Error("the identity was replaced")
	}
	if err := join(w.token(t, ed, time.Hour)); err != nil {
		t.Errorf("Join with another token: %v", err)
	}
	if next := certificateIn(t, dir); next.Leaf.Equal(first.Leaf) || identity.PublicKeyHash(next.Leaf) == identity.PublicKeyHash(first.Leaf) {
		t.Error("enrolling anew kept the key")
	}
	for _, name := range []string{"key.pem", "cert.pem", "ca.pem"} {
		if info, err := os.Stat(filepath.Join(dir, "identity", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	ca, err := os.ReadFile(filepath.Join(dir, "identity", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(ca); block == nil || string(block.Bytes) != string(w.config.Authority.Certificate().Raw) {
		t.Error("ca.pem is not the device CA")
	}
}

// The link over which a device has enrolled is the first that it has, and no other.
func TestJoinedLinkGoesOn(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.MaxAnonymous = 1 })
	ed := w.directory.put("device-1", "uid-1")
	for _, test := range []struct {
		name    string
		between func(*countingDialer)
		dialled int
	}{
		{"at once", func(*countingDialer) {}, 1},
		{"the link broke", (*countingDialer).cut, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			dialer, dir := &countingDialer{}, t.TempDir()
			joined, err := uplink.Join(t.Context(), uplink.JoinOptions{Server: w.address, Token: w.token(t, ed, time.Hour), StateDir: dir, Dialer: dialer})
			if err != nil {
				t.Fatal(err)
			}
			defer joined.Close()
			if joined.Device() != ed {
				t.Errorf("joined as %v", joined.Device())
			}
			test.between(dialer)
			d := w.run(t, dir, func(_ *device, c *uplink.Config) { c.Server, c.Joined = "", joined })
			receive(t, d.connected, "Connected")
			if n := dialer.count(); n != test.dialled {
				t.Errorf("%d connections, want %d", n, test.dialled)
			}
			// It does not count as anonymous any more.
			stranger := w.rawConn(t, nil)
			_, err = edgeapi.NewEdgeClient(stranger).Renew(t.Context(), &edgeapi.RenewRequest{})
			wantCode(t, err, codes.Unauthenticated, "")
			_ = stranger.Close()
			dialer.cut()
			if err := receive(t, d.disconnected, "Disconnected"); err == nil {
				t.Error("no reason is given")
			}
			receive(t, d.connected, "Connected with the certificate")
			if n := dialer.count(); n != test.dialled+1 {
				t.Errorf("%d connections after one was cut, want %d", n, test.dialled+1)
			}
			d.stop()
		})
	}
}

// Only the key that TLS has shown makes a connection the device's.
func TestJoinedLinkIsOfItsKey(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	csr, key := newCSR(t)
	_, other := newCSR(t)
	renew := func(client edgeapi.EdgeClient) error {
		_, err := client.Renew(t.Context(), &edgeapi.RenewRequest{Csr: csr})
		return err
	}
	for _, test := range []struct {
		name  string
		shown *ecdsa.PrivateKey
		code  codes.Code
	}{
		{"its own", key, codes.OK},
		{"another", other, codes.Unauthenticated},
		{"none", nil, codes.Unauthenticated},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := w.rawClient(t, selfIssued(t, test.shown))
			wantCode(t, renew(client), codes.Unauthenticated, "needs a device certificate")
			if _, err := client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: w.token(t, ed, time.Hour), Csr: csr}); err != nil {
				t.Fatal(err)
			}
			if err := renew(client); status.Code(err) != test.code {
				t.Errorf("a call that needs a certificate: %v, want %s", err, test.code)
			}
		})
	}
}

// selfIssued is a certificate that shows a key and no more, nil without a key.
func selfIssued(t *testing.T, key *ecdsa.PrivateKey) *tls.Certificate {
	t.Helper()
	if key == nil {
		return nil
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A server that is not there yet is tried again; one that says no is not.
func TestJoinWaitsForServer(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, w.directory.put("device-1", "uid-1"), time.Hour)
	w.stop()
	dialer := &countingDialer{failed: make(chan struct{}, 100)}
	joined := make(chan error, 1)
	go func() {
		joined <- joinAndLeave(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: t.TempDir(), Dialer: dialer})
	}()
	receive(t, dialer.failed, "the first attempt")
	w.start(t)
	if err := receive(t, joined, "Join"); err != nil {
		t.Error(err)
	}
}

// The token names the CA: a server that cannot show it never sees the token.
func TestJoinWrongServer(t *testing.T) {
	w, imposter := newWorld(t), newWorld(t)
	token := w.token(t, w.directory.put("device-1", "uid-1"), time.Hour)
	err := joinAndLeave(t.Context(), uplink.JoinOptions{Server: imposter.address, Token: token, StateDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "not the one that the token is for") {
		t.Errorf("Join at another server: %v", err)
	}
	if err := joinAndLeave(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: t.TempDir()}); err != nil {
		t.Errorf("the token was used up: %v", err)
	}
}

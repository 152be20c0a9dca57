package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/test/framework/eventually"
)

// rawClient is a client without the manners of an uplink.
func (w *world) rawClient(t *testing.T, cert *tls.Certificate) edgeapi.EdgeClient {
	t.Helper()
	return edgeapi.NewEdgeClient(w.rawConn(t, cert))
}

func (w *world) rawConn(t *testing.T, cert *tls.Certificate) *grpc.ClientConn {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(w.config.Authority.Certificate())
	config := &tls.Config{RootCAs: roots, ServerName: identity.GatewayName, MinVersion: tls.VersionTLS13}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	conn, err := grpc.NewClient("passthrough:///"+w.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func newCSR(t *testing.T) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return csrFor(t, key), key
}

func csrFor(t *testing.T, key any) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func (w *world) token(t *testing.T, device gateway.Device, ttl time.Duration) string {
	t.Helper()
	token, expires, err := w.IssueToken(t.Context(), device, ttl)
	if err != nil {
		t.Fatal(err)
	}
	if until := time.Until(expires); until > ttl || until < ttl-2*time.Second {
		t.Errorf("the token expires in %s, expected %s", until, ttl)
	}
	return token
}

func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, expected code %s with %q", err, code, text)
	}
}

func certificateIn(t *testing.T, dir string) *tls.Certificate {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "identity", "cert.pem"), filepath.Join(dir, "identity", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return &cert
}

func TestEnrol(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	token := w.token(t, ed, time.Hour)
	client := w.rawClient(t, nil)
	csr, key := newCSR(t)

	// What is wrong with a request must not use the token up.
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this Go makes no weak keys")
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	unsigned := append([]byte{}, csr...)
	unsigned[len(unsigned)-1] ^= 1
	for name, bad := range map[string][]byte{
		"empty": nil, "garbage": []byte("garbage"), "weak RSA key": csrFor(t, weak), "weak curve": csrFor(t, p224),
		"signature of another key": unsigned, "too long": make([]byte, 9<<10),
	} {
		_, err := client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: bad})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}

	resp, err := client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: csr})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(resp.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.FromCertificate(cert)
	if err != nil || got != ed || cert.Subject.CommonName != "edge/device-1" || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("certificate of %v (%s), error %v", got, cert.Subject, err)
	}
	if cert.IsCA || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("usages %v %v", cert.KeyUsage, cert.ExtKeyUsage)
	}
	if life := time.Until(cert.NotAfter); life < 29*24*time.Hour || life > 30*24*time.Hour {
		t.Errorf("certificate is valid for %s", life)
	}
	stored, _ := w.directory.Get("edge", "device-1")
	if c := stored.Status.Certificate; c == nil || c.PublicKeySHA256 != identity.PublicKeyHash(cert) || c.SerialNumber != cert.SerialNumber.Text(16) {
		t.Errorf("status.certificate: %+v", c)
	}

	other, _ := newCSR(t)
	_, err = client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: other})
	wantCode(t, err, codes.Unauthenticated, "used up")
	if now, _ := w.directory.Get("edge", "device-1"); now.Status.Certificate.SerialNumber != stored.Status.Certificate.SerialNumber {
		t.Error("another certificate is in force")
	}
}

func TestEnrolRefused(t *testing.T) {
	w := newWorld(t)
	one, two := w.directory.put("device-1", "uid-1"), w.directory.put("device-2", "uid-2")
	csr, _ := newCSR(t)
	client := w.rawClient(t, nil)
	enrol := func(token string) error {
		_, err := client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: token, Csr: csr})
		return err
	}

	// A token is good for its own device and says nothing about another: parts cannot be mixed.
	a, b := strings.Split(w.token(t, one, time.Hour), "."), strings.Split(w.token(t, two, time.Hour), ".")
	for _, mixed := range [][]string{
		{a[0], b[1], a[2], a[3], a[4]}, {b[0], a[1], a[2], a[3], a[4]}, {a[0], a[1], a[2], b[3], b[4]}, {a[0], a[1], a[2], "other", a[4]}, a[:3],
	} {
		wantCode(t, enrol(strings.Join(mixed, ".")), codes.Unauthenticated, "unknown")
	}
	wantCode(t, enrol("nonsense"), codes.Unauthenticated, "five parts")
	wantCode(t, enrol(""), codes.Unauthenticated, "five parts")

	// Created again under the same name, it is another device.
	token := w.token(t, one, time.Hour)
	w.directory.put("device-1", "uid-3")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	_, err := client.Enroll(ctx, &edgeapi.EnrollRequest{Token: token, Csr: csr})
	wantCode(t, err, codes.Unauthenticated, "unknown")
	w.directory.remove("device-1")
	wantCode(t, enrol(token), codes.Unauthenticated, "unknown")

	// One that is being deleted.
	token = w.token(t, two, time.Hour)
	w.directory.change("device-2", func(ed *v1alpha1.EdgeDevice) { ed.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	wantCode(t, enrol(token), codes.Unauthenticated, "being deleted")

	if _, _, err := w.IssueToken(t.Context(), gateway.Device{Namespace: "edge", Name: "x"}, time.Hour); err == nil {
		t.Error("a token for a device without UID was issued")
	}
}

func TestEnrolRateLimit(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, w.directory.put("device-1", "uid-1"), time.Hour)
	former := w.token(t, w.directory.put("device-2", "uid-2"), time.Hour)
	w.directory.put("device-2", "uid-3")
	for name, bad := range map[string]string{"no token": "guess", "token of a former EdgeDevice": former} {
		client := w.rawClient(t, nil)
		csr, _ := newCSR(t)
		for i := 0; ; i++ {
			_, err := client.Enroll(t.Context(), &edgeapi.EnrollRequest{Token: bad, Csr: csr})
			if status.Code(err) == codes.ResourceExhausted {
				break
			}
			if i > 10000 {
				t.Fatalf("%s: not limited", name)
			}
		}
	}
	// Who has a token may come from the same address.
	if err := w.enrolWith(t, token); err != nil {
		t.Errorf("with a token: %v", err)
	}
}

func TestAnonymous(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.MaxAnonymous = 2 })
	client := w.rawClient(t, nil)
	csr, _ := newCSR(t)
	_, err := client.Renew(t.Context(), &edgeapi.RenewRequest{Csr: csr})
	wantCode(t, err, codes.Unauthenticated, "needs a device certificate")
	call, err := client.Connect(t.Context())
	if err == nil {
		_, err = call.Recv()
	}
	wantCode(t, err, codes.Unauthenticated, "needs a device certificate")
	stream, err := client.Stream(t.Context())
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.Unauthenticated, "needs a device certificate")

	second := w.rawClient(t, nil)
	_, err = second.Renew(t.Context(), &edgeapi.RenewRequest{})
	wantCode(t, err, codes.Unauthenticated, "")
	third := w.rawClient(t, nil)
	_, err = third.Renew(t.Context(), &edgeapi.RenewRequest{})
	wantCode(t, err, codes.Unavailable, "")
}

// foreignCertificate is the certificate of a device that is of another CA.
func foreignCertificate(t *testing.T, d gateway.Device) *tls.Certificate {
	t.Helper()
	other := newWorld(t)
	other.directory.put(d.Name, string(d.UID))
	return certificateIn(t, other.enrol(t, d))
}

func TestForeignCA(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	w.enrol(t, ed)
	cert := foreignCertificate(t, ed)
	csr, _ := newCSR(t)
	_, err := w.rawClient(t, cert).Renew(t.Context(), &edgeapi.RenewRequest{Csr: csr})
	if status.Code(err) != codes.Unavailable { // the handshake failed
		t.Errorf("a certificate of another CA: %v", err)
	}
}

// A device that has missed that its CA was replaced learns why it is refused, and so does the gateway's log.
func TestReplacedCA(t *testing.T) {
	former, next := newCA(t), newCA(t)
	w := newWorld(t, func(c *gateway.Config) { c.Authority = authorityWith(t, former, next) })
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	w.stop()

	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
	w.logger, w.config.Authority = &logger, authorityWith(t, next)
	w.start(t)
	client, err := uplink.New(uplink.Config{Server: w.address, StateDir: dir, Handler: &device{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logger))
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	logged := func(text string) bool {
		return strings.Contains(logger.GetSink().(ktesting.Underlier).GetBuffer().String(), text)
	}
	eventually.Holds(t, "log of the device", func() bool {
		return logged("The server refuses this device") && logged("of a device CA that the server does not trust, or not any more")
	})
	eventually.Holds(t, "log of the gateway", func() bool {
		return logged("Refused a device certificate") && logged("edge/device-1") && logged("of a CA that is not trusted, or not any more")
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

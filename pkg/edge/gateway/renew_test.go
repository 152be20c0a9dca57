package gateway_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/test/framework/eventually"
)

func TestRenew(t *testing.T) {
	w := newWorld(t)
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	before, _ := w.directory.Get("edge", "device-1")
	cert := certificateIn(t, dir)
	client := w.rawClient(t, cert)
	resp, err := client.Renew(t.Context(), &edgeapi.RenewRequest{Csr: csrFor(t, cert.PrivateKey)})
	if err != nil {
		t.Fatal(err)
	}
	next, err := x509.ParseCertificate(resp.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if ed, _ := w.directory.Get("edge", "device-1"); ed.Status.Certificate.SerialNumber != next.SerialNumber.Text(16) {
		t.Error("status.certificate is not of the renewed one")
	} else if at := ed.Status.Certificate.EnrolledAt; !at.Equal(before.Status.Certificate.EnrolledAt) {
		t.Errorf("the renewal made the time of enrolment %s", at)
	}
	csr, _ := newCSR(t)
	_, err = client.Renew(t.Context(), &edgeapi.RenewRequest{Csr: csr})
	wantCode(t, err, codes.InvalidArgument, "keeps the key")
}

// A device that has gone wild does not keep the cluster busy with its certificate. Others renew meanwhile.
func TestRenewRateLimit(t *testing.T) {
	w := newWorld(t)
	one := certificateIn(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	two := certificateIn(t, w.enrol(t, w.directory.put("device-2", "uid-2")))
	renew := func(cert *tls.Certificate) error {
		_, err := w.rawClient(t, cert).Renew(t.Context(), &edgeapi.RenewRequest{Csr: csrFor(t, cert.PrivateKey)})
		return err
	}
	var err error
	for i := 0; err == nil; i++ {
		if i > 100 {
			t.Fatal("renewals are not limited")
		}
		err = renew(one)
	}
	wantCode(t, err, codes.ResourceExhausted, "too often")
	if err := renew(two); err != nil {
		t.Errorf("another device: %v", err)
	}
}

// A connected device is reminded, renews, and stays connected.
func TestRenewWhileConnected(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.CertificateLifetime = 20 * time.Second })
	dir := w.enrol(t, w.directory.put("device-1", "uid-1")) // 5 min 20 s long by its dates, of which 20 s are left
	w.stop()
	w.config.CertificateLifetime = time.Hour
	w.start(t)
	old := certificateIn(t, dir).Leaf
	d := w.run(t, dir)
	receive(t, d.connected, "the device to connect")
	w.handler.next(t, "started")
	eventually.Holds(t, "the certificate was renewed", func() bool {
		now := certificateIn(t, dir).Leaf
		return now.NotAfter.After(old.NotAfter.Add(30 * time.Minute))
	})
	select {
	case err := <-d.disconnected:
		t.Errorf("the renewal cut the link: %v", err)
	default:
	}
}

// A device that was offline for longer than its certificate lasts comes back by itself.
func TestExpiredInGrace(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.CertificateLifetime = -time.Minute })
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	w.stop()
	w.config.CertificateLifetime = time.Hour
	w.start(t)

	call, err := w.rawClient(t, certificateIn(t, dir)).Connect(t.Context())
	if err == nil {
		_, err = call.Recv()
	}
	wantCode(t, err, codes.Unauthenticated, "renew it first")

	c := &chooser{address: w.address}
	d := w.run(t, dir, func(_ *device, config *uplink.Config) { config.Dialer = c })
	receive(t, d.connected, "the device to connect")
	if n := c.proven.Load(); n != 2 { // a chooser would go on to another link if it were not
		t.Errorf("the link was proven %d times, want by the renewal and by the connection after it", n)
	}
	if left := time.Until(certificateIn(t, dir).Leaf.NotAfter); left < 50*time.Minute {
		t.Errorf("the certificate is good for %s", left)
	}
}

func TestExpiredBeyondGrace(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.CertificateLifetime = -2 * time.Minute; c.RenewalGrace = time.Minute })
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	cert := certificateIn(t, dir)
	_, err := w.rawClient(t, cert).Renew(t.Context(), &edgeapi.RenewRequest{Csr: csrFor(t, cert.PrivateKey)})
	wantCode(t, err, codes.PermissionDenied, "arhat join")
}

package process_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"arhat.dev/aranya/hack/cluster/local"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/suite"
)

// A device that was off for so long that its certificate has expired comes back by itself.
func TestExpiredCertificateHealsItself(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	agent := e.Cluster.Device(device)
	if err := agent.Stop(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(e.Cluster.Dir, "devices", device, "state", "identity", "cert.pem")
	expired := e.Expire(t, suite.ReadCertificate(t, path))
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: expired.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := agent.Resume(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, suite.PodTimeout, "the device is back with another certificate", func(ctx context.Context) error {
		if left := time.Until(suite.ReadCertificate(t, path).NotAfter); left < 24*time.Hour {
			return fmt.Errorf("the certificate is good for %s", left)
		}
		ed, err := e.Device(ctx, device)
		if err == nil && (ed.Status.Phase != "Online" || ed.Status.Certificate.SerialNumber == expired.SerialNumber.String()) {
			err = fmt.Errorf("phase %s, certificate %+v", ed.Status.Phase, ed.Status.Certificate)
		}
		return err
	})
	if err := e.Cluster.WaitOnline(t.Context(), device); err != nil {
		t.Fatal(err)
	}
}

// What does not heal: a key that was replaced since, which is what a copy of a device has, and a device that was
// deleted.
func TestExpiredCertificateThatDoesNotHeal(t *testing.T) {
	e := suite.Get(t)
	renew := func(cert *tls.Certificate) error {
		t.Helper()
		expired := e.Expire(t, cert.Leaf)
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, cert.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		_, err = gateway(t, e, &tls.Certificate{Certificate: [][]byte{expired.Raw}, PrivateKey: cert.PrivateKey.(crypto.Signer)}).
			Renew(t.Context(), &edgeapi.RenewRequest{Csr: csr})
		return err
	}
	name, token := newDevice(t, e)
	cert, err := enrol(t, e, token, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := renew(cert); err != nil {
		t.Errorf("the device itself: %v", err)
	}

	second, err := e.Cluster.Token(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	latter, err := enrol(t, e, second, name)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a copy of the former key", renew(cert), codes.PermissionDenied)

	e.Kubectl(t, "-n", "edge", "delete", "ed", name)
	wantCode(t, "of a deleted device", renew(latter), codes.PermissionDenied, codes.Unauthenticated)
}

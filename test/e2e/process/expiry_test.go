package process_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/hack/cluster/local"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/suite"
)

// expire returns a certificate as aranya issued it, for the same key and device, but one that has just expired:
// with the device CA, which an administrator can read. (It cannot have expired before there was that CA.)
func expire(t *testing.T, e *suite.Env, cert *x509.Certificate) *x509.Certificate {
	t.Helper()
	secret, err := e.Kube.CoreV1().Secrets("aranya-system").Get(t.Context(), "aranya-device-ca", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	template := *cert
	template.SerialNumber = new(big.Int).Add(cert.SerialNumber, big.NewInt(1))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Second)
	ca, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, ca, cert.PublicKey, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	expired, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return expired
}

func readCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A device that was off for so long that its certificate has expired comes back by itself.
func TestExpiredCertificateHealsItself(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	agent := e.Cluster.Device(device)
	if err := agent.Stop(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(e.Cluster.Dir, "devices", device, "state", "identity", "cert.pem")
	expired := expire(t, e, readCertificate(t, path))
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: expired.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := agent.Resume(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, suite.PodTimeout, "the device is back with another certificate", func(ctx context.Context) error {
		if left := time.Until(readCertificate(t, path).NotAfter); left < 24*time.Hour {
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
		expired := expire(t, e, cert.Leaf)
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

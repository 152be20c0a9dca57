package suite

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Expire returns a certificate as aranya issued it, for the same key and device, but one that has just expired:
// with the device CA, which an administrator can read. (It cannot have expired before there was that CA.)
func (e *Env) Expire(t testing.TB, cert *x509.Certificate) *x509.Certificate {
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

// ReadCertificate reads the first certificate of a file.
func ReadCertificate(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s holds no certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

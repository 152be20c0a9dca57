// Package pki makes the certificates and keys of a development cluster: a certificate authority is
// a pair of files, and so is each certificate. Files that exist are kept: what is added to a cluster that is
// up belongs to the same authorities. It is not meant for clusters that matter.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// validity of the certificates that an Authority issues. Authorities live for ten years.
const validity = 365 * 24 * time.Hour

// Authority is a certificate authority in files.
type Authority struct {
	// CertFile and KeyFile are the PEM files of the authority itself.
	CertFile, KeyFile string

	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// Request says what to certify. With hosts (names or IP addresses) the certificate is for servers as
// well as clients, without them for clients only.
type Request struct {
	CommonName    string
	Organizations []string
	Hosts         []string
}

// Pair are the PEM files of a certificate and its key.
type Pair struct {
	CertFile, KeyFile string
}

// LoadOrCreateAuthority returns the authority of that name in dir.
func LoadOrCreateAuthority(dir, name string) (*Authority, error) {
	a := &Authority{CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key"), dir: dir}
	if !exists(a.CertFile) || !exists(a.KeyFile) {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		cert, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: name}, key)
		if err != nil {
			return nil, err
		}
		if err := write(a.CertFile, a.KeyFile, cert.Raw, key); err != nil {
			return nil, err
		}
	}
	certs, err := certutil.CertsFromFile(a.CertFile)
	if err != nil {
		return nil, err
	}
	key, err := keyutil.PrivateKeyFromFile(a.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.KeyFile, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s does not hold a private key that can sign", a.KeyFile)
	}
	a.cert, a.key = certs[0], signer
	return a, nil
}

// LoadOrIssue returns the certificate of that file name, made for the request if it does not exist.
func (a *Authority) LoadOrIssue(name string, req Request) (Pair, error) {
	pair := Pair{CertFile: filepath.Join(a.dir, name+".crt"), KeyFile: filepath.Join(a.dir, name+".key")}
	if exists(pair.CertFile) && exists(pair.KeyFile) {
		return pair, nil
	}
	key, err := newKey()
	if err != nil {
		return pair, err
	}
	der, err := a.sign(req, key.Public())
	if err != nil {
		return pair, err
	}
	return pair, write(pair.CertFile, pair.KeyFile, der, key)
}

func (a *Authority) sign(req Request, pub crypto.PublicKey) ([]byte, error) {
	now := time.Now()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: req.CommonName, Organization: req.Organizations},
		NotBefore:   now.Add(-5 * time.Minute),
		NotAfter:    now.Add(validity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(req.Hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range req.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
}

// LoadOrCreateKey returns the PEM files of a bare key pair, as service account tokens are signed and
// verified with.
func LoadOrCreateKey(dir, name string) (private, public string, err error) {
	private, public = filepath.Join(dir, name+".key"), filepath.Join(dir, name+".pub")
	if exists(private) && exists(public) {
		return private, public, nil
	}
	key, err := newKey()
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", "", err
	}
	if err := writeKey(private, key); err != nil {
		return "", "", err
	}
	return private, public, os.WriteFile(public, encode("PUBLIC KEY", der), 0o644)
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func write(certFile, keyFile string, der []byte, key *ecdsa.PrivateKey) error {
	if err := writeKey(keyFile, key); err != nil {
		return err
	}
	return os.WriteFile(certFile, encode(certutil.CertificateBlockType, der), 0o644)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, encode(keyutil.ECPrivateKeyBlockType, der), 0o600)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func encode(blockType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

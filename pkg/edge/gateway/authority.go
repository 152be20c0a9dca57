package gateway

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/identity"
)

const (
	caLifetime = 10 * 365 * 24 * time.Hour
	// clockSkew is how far certificates of devices are dated back, for replicas whose clocks are slow.
	clockSkew = 5 * time.Minute
	// maxCommonName is X.520's limit. The name that counts is the URI.
	maxCommonName = 64
)

// Authority is the device CA: it signs the certificates of devices and of gateways. Its methods may be
// called concurrently.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	// bundle holds the certificates of the CAs that are trusted, the current one first.
	bundle []*x509.Certificate
	pool   *x509.CertPool
	// hash is the SHA-256 of the certificate, which enrolment tokens name.
	hash [sha256.Size]byte
	// tokens authenticates enrolment tokens.
	tokens tokenKey
	// secret is what it was read from.
	secret *corev1.Secret
}

func newAuthority(cert *x509.Certificate, key crypto.Signer, trusted []*x509.Certificate) (*Authority, error) {
	tokens, err := newTokenKey(cert, key)
	if err != nil {
		return nil, err
	}
	a := &Authority{
		cert: cert, key: key, bundle: []*x509.Certificate{cert}, pool: x509.NewCertPool(),
		hash: sha256.Sum256(cert.Raw), tokens: tokens,
	}
	for _, c := range trusted {
		if !c.Equal(cert) {
			a.bundle = append(a.bundle, c)
		}
	}
	for _, c := range a.bundle {
		a.pool.AddCert(c)
	}
	return a, nil
}

func makeAuthority(now time.Time) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "aranya device CA"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := sign(template, template, key.Public(), key)
	return cert, key, err
}

// derBundle returns the certificates of all trusted CAs, the current one first.
func (a *Authority) derBundle() [][]byte {
	var der [][]byte
	for _, c := range a.bundle {
		der = append(der, c.Raw)
	}
	return der
}

// signDevice issues a device certificate for the key of a checked request.
func (a *Authority) signDevice(csr *x509.CertificateRequest, device Device, lifetime time.Duration) (*x509.Certificate, error) {
	if err := device.Validate(); err != nil {
		return nil, err
	}
	now := time.Now()
	name := device.String()
	if len(name) > maxCommonName {
		name = name[:maxCommonName]
	}
	return sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		URIs:                  []*url.URL{device.URI()},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              a.limit(now.Add(lifetime)),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, a.cert, csr.PublicKey, a.key)
}

// signServing issues a certificate for a gateway, with a new key. It is valid from when the CA is: a gateway makes a new
// one at each start, and a device whose clock is slow would be shut out until its clock has come that far.
func (a *Authority) signServing(names []string, lifetime time.Duration) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: identity.GatewayName},
		DNSNames:              []string{identity.GatewayName},
		NotBefore:             a.cert.NotBefore,
		NotAfter:              a.limit(time.Now().Add(lifetime)),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if name != "" && name != identity.GatewayName {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	leaf, err := sign(template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	// The CA goes along for devices that enrol: all they know of it is its hash.
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// limit keeps what the CA signs from outliving it.
func (a *Authority) limit(t time.Time) time.Time {
	if t.After(a.cert.NotAfter) {
		return a.cert.NotAfter
	}
	return t
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// verifyDevice checks that a certificate was issued to a device by this CA, and returns the device. The
// period of validity is left to the caller, except that it must have begun: a device whose certificate
// has expired may still renew it.
func (a *Authority) verifyDevice(cert *x509.Certificate, now time.Time) (Device, error) {
	if now.Before(cert.NotBefore) {
		return Device{}, fmt.Errorf("the certificate is not valid before %s; check the clocks", cert.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.After(cert.NotAfter) {
		now = cert.NotAfter
	}
	if _, err := cert.Verify(x509.VerifyOptions{
		Roots:       a.pool,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return Device{}, err
	}
	if cert.IsCA {
		return Device{}, errors.New("a CA certificate is not a device's")
	}
	return identity.FromCertificate(cert)
}

// publicKeyHash of a request is what identity.PublicKeyHash of the certificate will be.
func publicKeyHash(csr *x509.CertificateRequest) string {
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// pemBegin is what each block of PEM begins with.
const pemBegin = "-----BEGIN "

// parseCertificates returns the certificates of CAs in PEM, before each of which there may be text. It refuses what
// pem.Decode would skip: each of them was meant to be trusted.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(data)) > 0 {
		block, rest := pem.Decode(data)
		where := fmt.Sprintf("after certificate %d", len(certs))
		if len(certs) == 0 {
			where = "at the beginning"
		}
		switch {
		case block == nil:
			return nil, fmt.Errorf("what is %s is no certificate in PEM: each begins with a line -----BEGIN CERTIFICATE-----, "+
				"and is encoded in base64 once more only in the YAML of the Secret", where)
		case bytes.Count(data[:len(data)-len(rest)], []byte(pemBegin)) != 1:
			return nil, fmt.Errorf("the PEM %s is broken: look whether each -----BEGIN and -----END is on a line of its own", where)
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("found a %q where only certificates belong", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate %d, of %s, is not one of a CA", len(certs)+1, cert.Subject)
		}
		certs, data = append(certs, cert), rest
	}
	return certs, nil
}

package servingcert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

const (
	caLifetime   = 3 * 365 * 24 * time.Hour
	leafLifetime = 30 * 24 * time.Hour
	// overlap is how long a new CA is published before it signs: time for every client to see it.
	overlap = 24 * time.Hour
	// backdate makes up for clocks that are behind ours.
	backdate = 5 * time.Minute
)

// authority is a CA with its key.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// renewAt is when two thirds of a certificate's life are over.
func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

// publishedAt is when a CA was made.
func (a *authority) publishedAt() time.Time { return a.cert.NotBefore.Add(backdate) }

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		// The name tells generations apart: verifiers look issuers up by it.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("aranya-serving-ca@%d", now.Unix())},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("create the serving CA: %w", err)
	}
	return &authority{cert: cert, key: key}, nil
}

// leaf is a serving certificate with its key.
type leaf struct {
	cert            *x509.Certificate
	certPEM, keyPEM []byte
	signedBy        *x509.Certificate
}

// issue makes a serving certificate.
func (a *authority) issue(now time.Time, dnsNames []string, ips []net.IP) (*leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	notAfter := now.Add(leafLifetime)
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: dnsNames[0]},
		DNSNames:              dnsNames,
		IPAddresses:           ips,
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	cert, err := sign(template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("create the serving certificate: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, err
	}
	certPEM, err := certutil.EncodeCertificates(cert, a.cert)
	if err != nil {
		return nil, err
	}
	return &leaf{cert: cert, certPEM: certPEM, keyPEM: keyPEM, signedBy: a.cert}, nil
}

// usable says whether the certificate can go on being served.
func (l *leaf) usable(now time.Time, signer *x509.Certificate) bool {
	return l != nil && now.Before(renewAt(l.cert)) && bytes.Equal(l.signedBy.Raw, signer.Raw)
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

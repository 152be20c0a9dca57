package uplink

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/identity"
)

// certify signs what a template says of a key, by the parent's or, without a parent, its own. It fills in the serial
// number and, if they are missing, the times.
func certify(t *testing.T, template, parent *x509.Certificate, of crypto.Signer, by crypto.Signer) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, of.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A CA whose key is replaced keeps its name: what the old key says of the new one looks like a root.
func TestVerifyGateway(t *testing.T) {
	newCA := func() *x509.Certificate {
		return &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "ca"}}
	}
	var keys [3]crypto.Signer
	for i := range keys {
		var err error
		if keys[i], err = newKey(); err != nil {
			t.Fatal(err)
		}
	}
	gateway := func() *x509.Certificate {
		return &x509.Certificate{DNSNames: []string{identity.GatewayName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	}
	oldRoot := certify(t, newCA(), nil, keys[0], keys[0])
	newRoot := certify(t, newCA(), nil, keys[1], keys[1])
	newByOld := certify(t, newCA(), oldRoot, keys[1], keys[0])
	ofOld := certify(t, gateway(), oldRoot, keys[2], keys[0])
	ofNew := certify(t, gateway(), newRoot, keys[2], keys[1])

	type certs []*x509.Certificate
	for name, tt := range map[string]struct {
		shown, trusted certs
		ok             bool
	}{
		"alone":                    {certs{ofOld}, certs{oldRoot}, true},
		"with its root":            {certs{ofOld, oldRoot}, certs{oldRoot}, true},
		"another root":             {certs{ofOld, oldRoot}, certs{newRoot}, false},
		"of one of two roots":      {certs{ofNew, newRoot, oldRoot}, certs{oldRoot, newRoot}, true},
		"new key, unknown":         {certs{ofNew, newRoot}, certs{oldRoot}, false},
		"new key, vouched for":     {certs{ofNew, newByOld, oldRoot}, certs{oldRoot}, true},
		"nothing":                  {nil, certs{oldRoot}, false},
		"nothing that is trusted":  {certs{ofOld, oldRoot}, nil, false},
		"a CA where a gateway was": {certs{oldRoot}, certs{oldRoot}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := verifyGateway(tls.ConnectionState{PeerCertificates: tt.shown}, tt.trusted); (err == nil) != tt.ok {
				t.Errorf("verifyGateway returned %v; the gateway is to be trusted: %t", err, tt.ok)
			}
		})
	}
}

// A device whose clock is wrong is told that it is the time.
func TestVerifyGatewayAtAnotherTime(t *testing.T) {
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	root := certify(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, key, key)
	for name, at := range map[string]time.Time{"slow": time.Now().Add(time.Hour), "fast": time.Now().Add(-3 * time.Hour)} {
		gateway := certify(t, &x509.Certificate{
			DNSNames: []string{identity.GatewayName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			NotBefore: at, NotAfter: at.Add(2 * time.Hour),
		}, root, key, key)
		err := verifyGateway(tls.ConnectionState{PeerCertificates: []*x509.Certificate{gateway}}, []*x509.Certificate{root})
		if err == nil || !strings.Contains(err.Error(), "is its clock right?") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

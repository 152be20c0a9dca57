package mqtt

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// withTimeout dials for a limited time.
func withTimeout(t testing.TB, d Dialer, limit time.Duration) (*link.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return d.Dial(ctx, "")
}

// breakNetwork cuts a client's connection to the broker without a word.
func breakNetwork(t testing.TB, cl *client) error {
	t.Helper()
	return cl.network.Close()
}

// selfSigned makes a certificate for 127.0.0.1 that is its own CA.
func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// stats are the values of counters at a time.
type stats struct {
	Foreign, Malformed, Oversized, Duplicates, Gaps, Refused, Dropped int64
}

// stats counts what a server did not take.
func (b *Broker) stats() stats { return b.client.counters.stats() }

func (c *counters) stats() stats {
	return stats{
		Foreign: c.foreign.Load(), Malformed: c.malformed.Load(), Oversized: c.oversized.Load(),
		Duplicates: c.duplicates.Load(), Gaps: c.gaps.Load(), Refused: c.refused.Load(), Dropped: c.dropped.Load(),
	}
}

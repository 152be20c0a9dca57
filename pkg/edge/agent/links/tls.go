package links

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
)

// clientTLS is TLS with a broker or a proxy, outside that with aranya.
type clientTLS struct {
	caFile, certFile, keyFile string // may be empty, the last two together

	mu       sync.Mutex
	sessions tls.ClientSessionCache // for as long as the CAs are the same
	trusted  [sha256.Size]byte      // what they were
}

// config reads the files. It trusts the CAs in a file, or the system's, and shows a certificate if there is one. Who
// shows none resumes the last session, which saves most of the bytes of a handshake; with one, another certificate
// would not be shown.
func (t *clientTLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var trusted [sha256.Size]byte
	if t.caFile != "" {
		pem, err := diskfile.Read(t.caFile, maxFile)
		if err != nil {
			return nil, fmt.Errorf("the CAs to trust: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate of a CA", t.caFile)
		}
		trusted = sha256.Sum256(pem)
	}
	if t.certFile == "" {
		c.ClientSessionCache = t.cache(trusted)
		return c, nil
	}
	cert, err := diskfile.Read(t.certFile, maxFile)
	if err != nil {
		return nil, fmt.Errorf("the client certificate: %w", err)
	}
	key, err := diskfile.Read(t.keyFile, maxFile)
	if err != nil {
		return nil, fmt.Errorf("the key of the client certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("the client certificate %s with the key %s: %w", t.certFile, t.keyFile, err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// cache holds the session with a server that these CAs vouched for: they are not asked again.
func (t *clientTLS) cache(trusted [sha256.Size]byte) tls.ClientSessionCache {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions == nil || t.trusted != trusted {
		t.sessions, t.trusted = tls.NewLRUClientSessionCache(1), trusted
	}
	return t.sessions
}

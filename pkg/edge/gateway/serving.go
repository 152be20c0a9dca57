package gateway

import (
	"crypto/tls"
	"sync"
	"time"
)

// servingLifetime of the gateway's own certificate. It lives in memory only.
const servingLifetime = 7 * 24 * time.Hour

// servingCertificate issues the gateway's own certificate, and the next one in time.
type servingCertificate struct {
	authority *Authority
	names     []string

	mu      sync.Mutex
	current *tls.Certificate
	renew   time.Time // when it has been in use for two thirds of its time
}

func (s *servingCertificate) get(now time.Time) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && now.Before(s.renew) {
		return s.current, nil
	}
	next, err := s.authority.signServing(s.names, servingLifetime)
	if err != nil {
		return nil, err
	}
	notAfter := next.Leaf.NotAfter // of which the time is the wall clock's, by which devices judge
	s.current, s.renew = next, notAfter.Add(-notAfter.Sub(now)/3)
	return next, nil
}

// certificate is what HTTPS clients are served: the certificate that is configured for the name they
// ask for, or else the gateway's own.
func (g *Gateway) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if f := g.config.Certificates; f != nil {
		if c := f(hello.ServerName); c != nil {
			return c, nil
		}
	}
	return g.serving.get(time.Now())
}

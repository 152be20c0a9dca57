package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
)

const (
	// connectTime is how long a connection may go without a session: time to enrol, to renew, or to
	// say hello.
	connectTime = 30 * time.Second
	// connectBytes is how much is read from a connection before the device on it was admitted.
	connectBytes = 64 << 10
	// lingerTime is left to a connection whose session ended, to deliver the reason.
	lingerTime = 5 * time.Second
)

// deviceConn is a connection from a device, below TLS. A stranger gets little of us over one: it is read
// to a limit and closed after a while, until a session holds it.
type deviceConn struct {
	*link.Conn
	gateway *Gateway
	permit  Permit // nil: any device
	traffic traffic.Counters

	budget   int64 // bytes that may be read before admission; for the reading goroutine
	admitted chan struct{}
	admit1   sync.Once
	isIn     atomic.Bool // admitted is closed

	timer     *time.Timer // closes the connection
	anonymous atomic.Bool // counted in gateway.anonymous
	closed    chan struct{}
	close1    sync.Once
}

// sums is what went over the connection by kind.
func (c *deviceConn) sums() traffic.Sums {
	return c.traffic.Sums().WithOverhead(traffic.Sum{Received: c.BytesIn(), Sent: c.BytesOut()})
}

// deviceListener makes deviceConns.
type deviceListener struct {
	net.Listener
	gateway *Gateway
	permit  Permit
}

func (l *deviceListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	lc, ok := c.(*link.Conn)
	if !ok {
		lc = link.NewConn(c, link.MethodGRPC)
	}
	dc := &deviceConn{
		Conn: lc, gateway: l.gateway, permit: l.permit, budget: connectBytes,
		admitted: make(chan struct{}), closed: make(chan struct{}),
	}
	dc.timer = time.AfterFunc(connectTime, func() { _ = dc.Close() })
	return dc, nil
}

// Read implements net.Conn. A device that is not admitted yet is read up to a limit, then waits.
func (c *deviceConn) Read(p []byte) (int, error) {
	if c.isIn.Load() {
		return c.Conn.Read(p)
	}
	if c.budget == 0 {
		select {
		case <-c.admitted:
			return c.Conn.Read(p)
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	if int64(len(p)) > c.budget {
		p = p[:c.budget]
	}
	n, err := c.Conn.Read(p)
	c.budget -= int64(n)
	return n, err
}

// admit lifts the limit on what is read.
func (c *deviceConn) admit() {
	c.admit1.Do(func() {
		c.isIn.Store(true)
		close(c.admitted)
	})
}

// hold keeps the connection open as long as there is a session.
func (c *deviceConn) hold() { c.timer.Stop() }

// release closes the connection soon.
func (c *deviceConn) release() { c.timer.Reset(lingerTime) }

// Close implements net.Conn.
func (c *deviceConn) Close() error {
	c.close1.Do(func() {
		c.timer.Stop()
		close(c.closed)
		if c.anonymous.Load() {
			c.gateway.anonymous.Add(-1)
		}
	})
	return c.Conn.Close()
}

// peerInfo is what a connection's TLS handshake said about its device.
type peerInfo struct {
	conn *deviceConn
	// The rest is not set for a connection without a certificate.
	device  Device
	keyHash string
	cert    *validity
}

// validity is what is kept of a device's certificate.
type validity struct{ NotBefore, NotAfter time.Time }

// AuthType implements credentials.AuthInfo.
func (*peerInfo) AuthType() string { return "tls" }

func peerFrom(ctx context.Context) (*peerInfo, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(*peerInfo); ok {
			return info, nil
		}
	}
	return nil, status.Error(codes.Internal, "the call did not come over a connection of the gateway")
}

// serverCredentials does the TLS handshake of the gateway's end.
type serverCredentials struct {
	gateway *Gateway
	config  *tls.Config
}

func newServerCredentials(g *Gateway) credentials.TransportCredentials {
	return &serverCredentials{gateway: g, config: &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return g.serving.get(time.Now()) // devices trust no other
		},
		// Asked for, but not demanded: a device that enrols has none. It is verified below and not by
		// crypto/tls, which would refuse one that has expired and may still be renewed.
		ClientAuth: tls.RequestClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			_, err := g.config.Authority.verifyDevice(state.PeerCertificates[0], time.Now())
			return err
		},
		// A ticket would hold on to an identity. A full handshake is cheap at P-256.
		SessionTicketsDisabled: true,
	}}
}

// ServerHandshake implements credentials.TransportCredentials.
func (s *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	dc, ok := raw.(*deviceConn)
	if !ok {
		return nil, nil, errors.New("not a connection of the gateway's listener")
	}
	conn := tls.Server(dc, s.config)
	if err := conn.Handshake(); err != nil {
		refused.WithLabelValues(refusedHandshake).Inc()
		s.gateway.logger.V(4).Info("A TLS handshake failed", "remote", remoteAddress(dc), "reason", err.Error())
		_ = conn.Close()
		return nil, nil, err
	}
	state := conn.ConnectionState()
	info := &peerInfo{conn: dc}
	if len(state.PeerCertificates) == 0 {
		if !s.gateway.countAnonymous(dc) {
			refused.WithLabelValues(refusedAnonymous).Inc()
			_ = conn.Close()
			return nil, nil, errors.New("too many connections without a device certificate")
		}
		return conn, info, nil
	}
	cert := state.PeerCertificates[0] // verified by VerifyConnection
	info.cert = &validity{cert.NotBefore, cert.NotAfter}
	info.keyHash = identity.PublicKeyHash(cert)
	var err error
	if info.device, err = identity.FromCertificate(cert); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	forgetCertificates(state)
	return conn, info, nil
}

// forgotten stands for certificates that nobody needs any more.
var forgotten = &x509.Certificate{}

// forgetCertificates has a connection let go of the certificates that it was shown, which are 3.5 KiB for as
// long as the link is up. The slice in the state is the connection's own.
func forgetCertificates(state tls.ConnectionState) {
	for i := range state.PeerCertificates {
		state.PeerCertificates[i] = forgotten
	}
}

func (g *Gateway) countAnonymous(dc *deviceConn) bool {
	if g.anonymous.Add(1) > int64(g.config.MaxAnonymous) {
		g.anonymous.Add(-1)
		return false
	}
	dc.anonymous.Store(true)
	return true
}

// ClientHandshake implements credentials.TransportCredentials.
func (s *serverCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the gateway does not dial")
}

// Info implements credentials.TransportCredentials.
func (s *serverCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (s *serverCredentials) Clone() credentials.TransportCredentials { c := *s; return &c }

// OverrideServerName implements credentials.TransportCredentials.
func (s *serverCredentials) OverrideServerName(string) error { return nil }

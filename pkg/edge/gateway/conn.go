package gateway

import (
	"bytes"
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
	"arhat.dev/aranya/pkg/edge/note"
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
	parked    chan struct{} // closed when the device has given the connection up, nil if it cannot
	opening   chan struct{} // holds one for each call of Stream whose first frame is read
}

// sums is what went over the connection by kind.
func (c *deviceConn) sums() traffic.Sums {
	return c.traffic.Sums().WithOverhead(traffic.Sum{Received: c.BytesIn(), Sent: c.BytesOut()})
}

// rested is what a session keeps of a connection while its link is parked.
func (c *deviceConn) rested() *deviceConn {
	r := &deviceConn{Conn: c.Conn.Rested(), gateway: c.gateway, permit: c.permit}
	r.traffic.Add(c.traffic.Sums())
	return r
}

// inherit has the connection count on from where the former one has stopped.
func (c *deviceConn) inherit(former *deviceConn) {
	c.Conn.Inherit(former.Conn)
	c.traffic.Add(former.traffic.Sums())
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
		admitted: make(chan struct{}), closed: make(chan struct{}), opening: make(chan struct{}, maxOpening),
	}
	if lc.CanPark() {
		dc.parked = make(chan struct{})
	}
	dc.timer = time.AfterFunc(time.Hour, func() { _ = dc.Close() })
	dc.timer.Reset(connectTime) // from here on Close may read dc.timer
	l.gateway.newcomers.add(dc)
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
func (c *deviceConn) hold() {
	c.timer.Stop()
	c.Settled()
}

// release closes the connection soon.
func (c *deviceConn) release() {
	c.timer.Reset(lingerTime)
	c.Settled()
}

// Close implements net.Conn.
func (c *deviceConn) Close() error {
	c.close1.Do(func() {
		c.timer.Stop()
		close(c.closed)
		c.countKnown()
		c.gateway.newcomers.remove(c)
	})
	return c.Conn.Close()
}

// countKnown counts the connection as anonymous no more.
func (c *deviceConn) countKnown() {
	if c.anonymous.Swap(false) {
		c.gateway.anonymous.Add(-1)
	}
}

// peerInfo is what is known of the device at the other end of a connection.
type peerInfo struct {
	conn *deviceConn
	// key is the hash of the key that TLS has shown to be the device's, empty if it did not show any.
	key string
	// keys are for notes when the link is parked, nil if it cannot be.
	keys *note.Keys
	// credential is nil until the device has enrolled. It is set once.
	credential atomic.Pointer[credential]
}

// credential is what a certificate says that was in force when its device connected or enrolled. The
// certificate itself would be some KiB for each connection.
type credential struct {
	device              Device
	keyHash             string
	notBefore, notAfter time.Time
}

func credentialOf(device Device, keyHash string, cert *x509.Certificate) *credential {
	return &credential{device: device, keyHash: keyHash, notBefore: cert.NotBefore, notAfter: cert.NotAfter}
}

// AuthType implements credentials.AuthInfo.
func (*peerInfo) AuthType() string { return "tls" }

// enrolled makes the connection that of the device that has just enrolled over it, if TLS has shown that
// the key is at its other end: the certificate would prove no more over another connection.
func (p *peerInfo) enrolled(c *credential) {
	if p.key == c.keyHash && p.credential.CompareAndSwap(nil, c) {
		p.conn.countKnown()
	}
}

func peerFrom(ctx context.Context) (*peerInfo, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(*peerInfo); ok {
			return info, nil
		}
	}
	return nil, status.Error(codes.Internal, "the call did not come over a connection of the gateway")
}

// deviceFrom is peerFrom for calls of devices that have enrolled.
func deviceFrom(ctx context.Context) (*peerInfo, *credential, error) {
	p, err := peerFrom(ctx)
	if err != nil {
		return nil, nil, err
	}
	c := p.credential.Load()
	if c == nil {
		refused.WithLabelValues(refusedAnonymous).Inc()
		return nil, nil, status.Errorf(codes.Unauthenticated, "this call needs a device certificate. %s", enrolAnew)
	}
	return p, c, nil
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
		// Asked for, but not demanded: a device that enrols has none, or one of its own making. It is verified
		// below and not by crypto/tls, which would refuse one that has expired and may still be renewed.
		ClientAuth: tls.RequestClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 || selfIssued(state.PeerCertificates[0]) {
				return nil
			}
			if _, err := g.config.Authority.verifyDevice(state.PeerCertificates[0], time.Now()); err != nil {
				return &strangeCertificate{cert: state.PeerCertificates[0], err: err}
			}
			return nil
		},
		// A ticket would hold on to an identity. A full handshake is cheap at P-256.
		SessionTicketsDisabled: true,
	}}
}

// strangeCertificate is why a certificate is not one of a device.
type strangeCertificate struct {
	cert *x509.Certificate
	err  error
}

func (e *strangeCertificate) Error() string {
	var unknown x509.UnknownAuthorityError
	if errors.As(e.err, &unknown) {
		return "it is of a CA that is not trusted, or not any more"
	}
	return e.err.Error()
}

// logHandshake tells why a TLS handshake failed. Of certificates that are not accepted everybody should hear, but not
// as often as anybody likes: their devices are shut out until they are enrolled anew.
func (g *Gateway) logHandshake(dc *deviceConn, err error) {
	var strange *strangeCertificate
	if !errors.As(err, &strange) {
		g.logger.V(4).Info("A TLS handshake failed", "remote", remoteAddress(dc), "reason", err.Error())
		return
	}
	g.strange.Do(func() {
		name := "none"
		if device, err := identity.FromCertificate(strange.cert); err == nil {
			name = device.String()
		}
		g.logger.Info("Refused a device certificate", "remote", remoteAddress(dc), "nameInIt", name, "reason", err.Error())
	})
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
		s.gateway.logHandshake(dc, err)
		_ = conn.Close()
		return nil, nil, err
	}
	state := conn.ConnectionState()
	info, err := s.gateway.identify(dc, state.PeerCertificates)
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	if dc.parked != nil {
		if info.keys, err = note.KeysOf(&state); err != nil {
			_ = conn.Close()
			return nil, nil, err
		}
	}
	forgetCertificates(state)
	return conn, info, nil
}

// identify says who is at the other end of a connection, by what VerifyConnection has let pass.
func (g *Gateway) identify(dc *deviceConn, shown []*x509.Certificate) (*peerInfo, error) {
	info := &peerInfo{conn: dc}
	if len(shown) > 0 {
		info.key = identity.PublicKeyHash(shown[0])
	}
	if len(shown) == 0 || selfIssued(shown[0]) {
		if !g.countAnonymous(dc) {
			refused.WithLabelValues(refusedAnonymous).Inc()
			return nil, errors.New("too many connections without a device certificate")
		}
		return info, nil
	}
	device, err := identity.FromCertificate(shown[0])
	if err != nil {
		return nil, err
	}
	info.credential.Store(credentialOf(device, info.key, shown[0]))
	return info, nil
}

// selfIssued says whether a certificate vouches for nothing but the key in it, and so needs no verifying.
func selfIssued(cert *x509.Certificate) bool { return bytes.Equal(cert.RawIssuer, cert.RawSubject) }

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

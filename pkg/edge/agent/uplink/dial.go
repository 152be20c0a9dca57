package uplink

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/pkg/edge/note"
)

const (
	// dialTime is how long dialling may take. Dialers give up earlier, unless they are told to wait.
	dialTime = 5 * time.Minute
	// handshakeTime is how long TLS may take.
	handshakeTime = 30 * time.Second
	// streamWindow is how much of a stream may be under way, and must be held for a reader that
	// stalls. connWindow is the same for the whole link.
	streamWindow = 512 << 10
	connWindow   = 2 << 20
	ioBuffer     = 16 << 10
	maxHeaders   = 8 << 10
	// maxFrame limits what one message of a stream may have: 32 KiB of data and their wrapping.
	maxFrame = 64 << 10
)

// connection is one link to a gateway. It is never re-established: whoever uses it dials anew.
type connection struct {
	*grpc.ClientConn
	raw     *link.Conn
	tls     *tlsConn
	traffic *traffic.Link // where its calls are counted
	keys    *note.Keys    // for notes when the link is parked, nil if it cannot be
}

// dial connects to a gateway and does the TLS handshake.
func dial(ctx context.Context, dialer link.Dialer, address string, config *tls.Config, ledger *traffic.Ledger) (*connection, error) {
	reach := func(ctx context.Context) (*link.Conn, error) { return dialer.Dial(ctx, address) }
	return connect(ctx, reach, func() string { return dialled(dialer, address) }, config, ledger)
}

// dialled is the address that was dialled last, for a person: the one that a Chooser is given may list several.
func dialled(dialer link.Dialer, address string) string {
	if chooser, ok := dialer.(Chooser); ok {
		return cmp.Or(chooser.Dialled(), address)
	}
	return address
}

// connect is dial by any means.
func connect(ctx context.Context, reach func(context.Context) (*link.Conn, error), address func() string, config *tls.Config, ledger *traffic.Ledger) (*connection, error) {
	dialCtx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := reach(dialCtx)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address(), err)
	}
	config = config.Clone()
	// What is verified is another matter.
	config.ServerName = raw.Host()
	ctx, cancel = context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	counted := ledger.Link(raw.Method())
	conn := tls.Client(counted.Conn(raw), config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address(), err)
	}
	var keys *note.Keys
	if raw.CanPark() {
		state := conn.ConnectionState()
		if keys, err = note.KeysOf(&state); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	watched := newTLSConn(conn)
	once := &onceDialer{conn: watched}
	client, err := grpc.NewClient("passthrough:///"+identity.GatewayName,
		grpc.WithContextDialer(once.dial),
		grpc.WithTransportCredentials(handshaken{}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithDisableHealthCheck(),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithStatsHandler(traffic.Handler{}),
	)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &connection{ClientConn: client, raw: raw, tls: watched, traffic: counted, keys: keys}, nil
}

// close ends the link, whether gRPC took it over or not.
func (c *connection) close() {
	_ = c.ClientConn.Close()
	_ = c.raw.Close()
}

// onceDialer hands a connection to gRPC, which would otherwise reconnect on its own terms.
type onceDialer struct {
	conn *tlsConn
	used atomic.Bool
}

func (d *onceDialer) dial(context.Context, string) (net.Conn, error) {
	if d.used.Swap(true) {
		return nil, errors.New("the link is down")
	}
	return d.conn, nil
}

// handshaken are credentials for a connection on which TLS is up already.
type handshaken struct{}

func (handshaken) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, ok := c.(*tlsConn)
	if !ok {
		return nil, nil, errors.New("not a TLS connection")
	}
	return conn, credentials.TLSInfo{
		State:          conn.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

func (handshaken) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a device does not listen")
}

func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (h handshaken) Clone() credentials.TransportCredentials { return h }
func (handshaken) OverrideServerName(string) error           { return nil }

// baseTLS verifies the gateway by verify alone. crypto/tls would check the name that was dialled, which
// may be anything; what every gateway has is identity.GatewayName.
func baseTLS(verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection:   verify,
	}
}

// tls presents the device's certificate and trusts gateways of its CA.
func (id *deviceIdentity) tls() *tls.Config {
	config := baseTLS(func(state tls.ConnectionState) error { return verifyGateway(state, id.ca) })
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return id.certificate(), nil
	}
	return config
}

// enrolTLS shows the key by a certificate that nobody vouches for, so that the connection is the device's
// once it has enrolled. It trusts gateways of the CA with a hash, and tells which it was.
func enrolTLS(key crypto.Signer, caHash [sha256.Size]byte) (config *tls.Config, ca **x509.Certificate, err error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	ca = new(*x509.Certificate)
	config = baseTLS(func(state tls.ConnectionState) error { return verifyPinned(state, caHash, ca) })
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}
	return config, ca, nil
}

func verifyPinned(state tls.ConnectionState, caHash [sha256.Size]byte, ca **x509.Certificate) error {
	for _, cert := range state.PeerCertificates {
		if sha256.Sum256(cert.Raw) != caHash || !cert.IsCA {
			continue
		}
		*ca = cert
		return verifyGateway(state, []*x509.Certificate{cert})
	}
	return errors.New("the server is not the one that the token is for: it does not show the CA certificate " +
		"that the token names. Check the address; if it is right, somebody may be intercepting the connection")
}

// verifyGateway verifies what a gateway shows, which must be of a CA that is trusted.
func verifyGateway(state tls.ConnectionState, trusted []*x509.Certificate) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		// A root that is an intermediate as well would have signatures checked once more.
		if !slices.ContainsFunc(trusted, cert.Equal) {
			intermediates.AddCert(cert)
		}
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		DNSName:       identity.GatewayName,
		Roots:         poolOf(trusted),
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return errors.New("the server's certificate is of a CA that this device does not know: it is another server " +
			"than the one the device enrolled with, or its CA was replaced; enrol the device anew")
	}
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("the server's certificate is not valid at the time of this device; is its clock right? %w", err)
	}
	return err
}

package uplink

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
)

// renewer is a gateway that lets a device in once it has renewed its certificate, or before if it is lenient. It is its
// dialer, too.
type renewer struct {
	edgeapi.UnimplementedEdgeServer
	key      crypto.Signer // its own
	device   crypto.Signer // the device's
	ca       *x509.Certificate
	next     *x509.Certificate // which it gives to the device
	listener *bufconn.Listener
	renewals atomic.Int32
	lenient  bool
	remind   chan struct{} // has it ask for a renewal
}

// newRenewer is to be called in a bubble, which it leaves with the test.
func newRenewer(t *testing.T) (r *renewer, stop func()) {
	t.Helper()
	r = &renewer{key: mustKey(t), device: mustKey(t), listener: bufconn.Listen(64 << 10), remind: make(chan struct{}, 1)}
	r.ca = certify(t, &x509.Certificate{
		NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "ca"},
	}, nil, r.key, r.key)
	r.next = r.certificate(t, time.Now().Add(900*time.Hour))
	serving := certify(t, &x509.Certificate{
		DNSNames: []string{identity.GatewayName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, r.ca, r.key, r.key)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{serving.Raw}, PrivateKey: r.key}},
	})))
	edgeapi.RegisterEdgeServer(server, r)
	done := make(chan error)
	go func() { done <- server.Serve(r.listener) }()
	return r, func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func mustKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate is one for the device's key.
func (r *renewer) certificate(t *testing.T, notAfter time.Time) *x509.Certificate {
	t.Helper()
	return certify(t, &x509.Certificate{
		NotBefore: time.Now().Add(-500 * time.Hour), NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{identity.Device{Namespace: "edge", Name: "device", UID: "uid"}.URI()},
	}, r.ca, r.device, r.key)
}

func (r *renewer) Renew(context.Context, *edgeapi.RenewRequest) (*edgeapi.RenewResponse, error) {
	r.renewals.Add(1)
	return &edgeapi.RenewResponse{Certificate: r.next.Raw, Ca: [][]byte{r.ca.Raw}}, nil
}

func (r *renewer) Connect(call grpc.BidiStreamingServer[edgeapi.DeviceMessage, edgeapi.ServerMessage]) error {
	if r.renewals.Load() == 0 && !r.lenient {
		return status.Error(codes.Unauthenticated, "the device certificate expired; renew it first")
	}
	welcome := &edgeapi.Welcome{HeartbeatIntervalMs: time.Hour.Milliseconds()}
	if err := call.Send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	for {
		select {
		case <-r.remind:
			if err := call.Send(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Renewal{Renewal: &edgeapi.Renewal{}}}); err != nil {
				return err
			}
		case <-call.Context().Done():
			return nil
		}
	}
}

// Dial implements link.Dialer.
func (r *renewer) Dial(ctx context.Context, _ string) (*link.Conn, error) {
	conn, err := r.listener.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	return link.NewConn(conn, link.MethodGRPC), nil
}

// device is a device that waits to be connected.
type device struct {
	Handler
	connected chan struct{}
}

func (device) Hello(context.Context) *edgeapi.Hello { return &edgeapi.Hello{} }
func (device) Disconnected(error)                   {}
func (d device) Connected(context.Context, *edgeapi.Welcome, Sender) {
	close(d.connected)
}

// run runs a client whose certificate is good until notAfter, and returns when it is connected.
func (r *renewer) run(t *testing.T, notAfter time.Time, dir string) (stop func()) {
	t.Helper()
	id, err := newIdentity(r.device, r.certificate(t, notAfter).Raw, [][]byte{r.ca.Raw}, "token")
	if err != nil {
		t.Fatal(err)
	}
	d := device{connected: make(chan struct{})}
	client := &Client{config: Config{Server: "gateway", StateDir: dir, Handler: d, Dialer: r, MaxBackoff: time.Minute}, ledger: &traffic.Ledger{}}
	client.id.Store(id)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- client.Run(ctx) }()
	select {
	case <-d.connected:
	case <-time.After(time.Minute): // of the bubble
		t.Error("the device does not connect")
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// The clock of a device may be slow: whether a certificate has expired is what the server says.
func TestRenewWhenTheServerSaysSo(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r, end := newRenewer(t)
		defer end()
		defer r.run(t, time.Now().Add(100*time.Hour), dir)()
		if n := r.renewals.Load(); n != 1 {
			t.Errorf("renewed %d times", n)
		}
	})
}

// A device that connects late in the life of its certificate renews it, and is asked to at the same time.
func TestRenewOnceWhenAskedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r, end := newRenewer(t)
		defer end()
		r.lenient = true
		r.remind <- struct{}{}
		defer r.run(t, time.Now().Add(10*time.Hour), dir)()
		synctest.Wait()
		if n := r.renewals.Load(); n != 1 {
			t.Errorf("renewed %d times", n)
		}
		time.Sleep(renewRetry + time.Second)
		r.remind <- struct{}{}
		synctest.Wait()
		if n := r.renewals.Load(); n != 2 {
			t.Errorf("asked once more it has renewed %d times", n)
		}
	})
}

// A disk that is full does not keep a device away, nor make it renew again and again.
func TestRenewOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, identityDir, keyFile+newSuffix)
	if err := os.MkdirAll(filepath.Join(inTheWay, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r, end := newRenewer(t)
		defer end()
		defer r.run(t, time.Now().Add(-time.Hour), dir)()
		time.Sleep(3*renewRetry + time.Second)
		synctest.Wait()
		if _, err := loadIdentity(dir); err == nil {
			t.Error("there is room for the certificate")
		}
		if err := os.RemoveAll(inTheWay); err != nil {
			t.Fatal(err)
		}
		time.Sleep(renewRetry + time.Second)
		synctest.Wait()
		if id, err := loadIdentity(dir); err != nil || !id.cert.Equal(r.next) {
			t.Errorf("once there is room, the certificate on the disk is not the one in use: %v", err)
		}
		if n := r.renewals.Load(); n != 1 {
			t.Errorf("renewed %d times", n)
		}
	})
}

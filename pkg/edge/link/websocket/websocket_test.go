package websocket

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"arhat.dev/aranya/pkg/edge/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs an HTTPS server, as an ingress would.
func serve(t *testing.T) (*httptest.Server, *Listener, Dialer) {
	t.Helper()
	l := NewListener(&net.TCPAddr{})
	mux := http.NewServeMux()
	mux.Handle(Path, l)
	s := httptest.NewTLSServer(mux)
	t.Cleanup(func() {
		_ = l.Close()
		s.Close()
	})
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, l, Dialer{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
}

func address(s *httptest.Server) string { return "wss://" + s.Listener.Addr().String() }

func connectPair(t *testing.T) (device, server *link.Conn) {
	t.Helper()
	s, l, d := serve(t)
	device, err := d.Dial(t.Context(), address(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return device, c.(*link.Conn)
}

func TestBytes(t *testing.T) {
	device, server := connectPair(t)
	if device.Method() != link.MethodWebSocket || server.Method() != link.MethodWebSocket {
		t.Errorf("methods %s and %s", device.Method(), server.Method())
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	for _, dir := range []struct{ from, to net.Conn }{{device, server}, {server, device}} {
		go func() { _, _ = dir.from.Write(data) }()
		got := make([]byte, len(data))
		if _, err := io.ReadFull(dir.to, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("other bytes arrived than were sent, error %v", err)
		}
	}
	if device.BytesOut() != int64(len(data)) || device.BytesIn() != int64(len(data)) {
		t.Errorf("counted %d and %d", device.BytesOut(), device.BytesIn())
	}
	_, _ = device.Write([]byte("last words"))
	_ = device.Close()
	if got, err := io.ReadAll(server); err != nil || string(got) != "last words" {
		t.Errorf("after a close: %q, %v", got, err)
	}
}

func TestDeadlines(t *testing.T) {
	device, server := connectPair(t)
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read past its deadline: %v", err)
	}
	// Nobody reads: a write blocks, and a deadline that is set meanwhile ends it.
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := device.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}()
	_ = device.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write past its deadline: %v", err)
	}
}

// A deadline that is set during a write holds for all frames of its message.
func TestDeadlineDuringAWrite(t *testing.T) {
	device, server := connectPair(t)
	written := make(chan error, 1)
	go func() {
		_, err := device.Write(make([]byte, 32<<20))
		written <- err
	}()
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	_ = device.SetWriteDeadline(time.Now().Add(-time.Second))
	go func() { _, _ = io.Copy(io.Discard, server) }()
	if err := <-written; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write past its deadline: %v", err)
	}
}

func TestBrokenNetwork(t *testing.T) {
	device, server := connectPair(t)
	_ = device.Conn.(*conn).NetConn().Close()
	if _, err := server.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		if !websocket.IsUnexpectedCloseError(err) {
			t.Errorf("a broken connection reads as %v", err)
		}
	}
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("a read after a failure succeeded")
	}
}

func TestTextMessage(t *testing.T) {
	device, server := connectPair(t)
	if err := device.Conn.(*conn).WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "text message") {
		t.Errorf("%v", err)
	}
}

func TestRefusals(t *testing.T) {
	s, l, d := serve(t)
	if _, err := d.Dial(t.Context(), address(s)+"/elsewhere"); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("another path: %v", err)
	}
	if _, err := (Dialer{}).Dial(t.Context(), address(s)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown CA: %v", err)
	}
	if _, err := DialConn(t.Context(), address(s)+Path, Options{TLS: d.TLS, Subprotocol: "mqtt"}); err == nil || !strings.Contains(err.Error(), "subprotocol must be") {
		t.Errorf("another protocol: %v", err)
	}
	resp, err := s.Client().Get(s.URL + Path)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a browser gets %s", resp.Status)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Dial(ctx, address(s)); err == nil {
		t.Error("Dial succeeded after its context had ended")
	}
	// The backlog is full: the next one is told.
	for range maxBacklog {
		c, err := d.Dial(t.Context(), address(s))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for len(l.backlog) < maxBacklog {
		time.Sleep(time.Millisecond)
	}
	if _, err := d.Dial(t.Context(), address(s)); err == nil || !strings.Contains(err.Error(), "too many devices") {
		t.Errorf("a full backlog: %v", err)
	}
	_ = l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

// TestProxy is what TestProxyEnvironment runs.
func TestProxy(t *testing.T) {
	if os.Getenv("LINK_TEST_PROXY_CHILD") == "" {
		t.Skip("run by TestProxyEnvironment")
	}
	_, err := Dialer{}.Dial(t.Context(), "wss://gateway.invalid")
	if err == nil || !strings.Contains(err.Error(), "through the HTTP proxy 127.0.0.1:") || !strings.Contains(err.Error(), ": Forbidden") {
		t.Fatalf("the error is %v", err)
	}
}

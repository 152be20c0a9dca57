package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/websocket"
)

// linkDialer dials one address by another transport, whatever it is asked for.
type linkDialer struct {
	link.Dialer
	address string
}

func (d linkDialer) Dial(ctx context.Context, _ string) (*link.Conn, error) {
	return d.Dialer.Dial(ctx, d.address)
}

// TestOnePortForAllLinks would fail if TLS of the device link, HTTPS or the plain HTTP of an ingress did
// not find its way.
func TestOnePortForAllLinks(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.Names = []string{"127.0.0.1"} })
	roots := x509.NewCertPool()
	roots.AddCert(w.config.Authority.Certificate())
	for name, tt := range map[string]struct {
		dialer link.Dialer
		method string
	}{
		"direct":            {link.TCP{}, link.MethodGRPC},
		"https":             {linkDialer{websocket.Dialer{TLS: &tls.Config{RootCAs: roots}}, "wss://" + w.address + websocket.Path}, link.MethodWebSocket},
		"behind an ingress": {linkDialer{websocket.Dialer{}, "ws://" + w.address + websocket.Path}, link.MethodWebSocket},
	} {
		t.Run(name, func(t *testing.T) {
			d := w.directory.put("d", "1")
			token, _, err := w.IssueToken(t.Context(), d, 1e12)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := joinAndLeave(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: dir, Dialer: tt.dialer}); err != nil {
				t.Fatal(err)
			}
			dev := w.run(t, dir, func(_ *device, c *uplink.Config) { c.Dialer = tt.dialer })
			s := w.handler.next(t, "started").s
			if m := s.Info().Method; m != tt.method {
				t.Errorf("the link's method is %q", m)
			}
			if s.Info().BytesIn == 0 || !strings.HasPrefix(s.Info().RemoteAddress, "127.0.0.1:") {
				t.Errorf("the link is described as %+v", s.Info())
			}
			dev.stop()
			w.handler.next(t, "ended")
		})
	}
}

func TestHTTPSCertificateByName(t *testing.T) {
	own := foreignCertificate(t, gateway.Device{Namespace: "edge", Name: "d", UID: "1"})
	w := newWorld(t, func(c *gateway.Config) {
		c.Certificates = func(name string) *tls.Certificate {
			if name == "devices.example.com" {
				return own
			}
			return nil
		}
	})
	for name, want := range map[string]bool{"devices.example.com": true, "other.example.com": false} {
		c, err := tls.Dial("tcp", w.address, &tls.Config{ServerName: name, InsecureSkipVerify: true}) //nolint:gosec // the test looks at the certificate itself
		if err != nil {
			t.Fatal(err)
		}
		served := c.ConnectionState().PeerCertificates[0]
		_ = c.Close()
		if got := string(served.Raw) == string(own.Certificate[0]); got != want {
			t.Errorf("%s is served the configured certificate: %t", name, got)
		}
	}
}

func TestStrangersOnThePort(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct{ say, want string }{
		"neither TLS nor HTTP": {"\x00\x01\x02", ""},
		"broken ClientHello":   {"\x16\x03\x01\x00\x05hello", ""},
		"another path":         {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"},
		"no upgrade":           {fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", websocket.Path), "426"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", w.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, tt.say); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if tt.want == "" {
				if err == nil {
					t.Errorf("answered %s", resp.Status)
				}
				return
			}
			if err != nil || !strings.HasPrefix(resp.Status, tt.want) {
				t.Fatalf("answered %v %v", resp, err)
			}
			_ = resp.Body.Close()
		})
	}
	// One who says nothing does not keep the gateway from stopping.
	silent, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	w.stop()
}

// deaf hears nothing of what the other end answers.
type deaf struct{ net.Conn }

func (deaf) Read([]byte) (int, error) { return 0, io.EOF }

// One who stops in the middle of a handshake does not keep the gateway from stopping.
func TestStopDuringHandshakes(t *testing.T) {
	config := &tls.Config{NextProtos: []string{"h2"}, InsecureSkipVerify: true} //nolint:gosec // nothing is said to the gateway
	for name, begin := range map[string]func(net.Conn) net.Conn{
		"of TLS": func(c net.Conn) net.Conn {
			_ = tls.Client(deaf{c}, config).Handshake()
			return c
		},
		"of HTTP/2": func(c net.Conn) net.Conn { return tls.Client(c, config) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tcp, err := net.Dial("tcp", w.address)
			if err != nil {
				t.Fatal(err)
			}
			defer tcp.Close()
			if _, err := begin(tcp).Read(make([]byte, 1)); err != nil {
				t.Fatalf("the gateway did not do its part: %v", err)
			}
			w.stop()
		})
	}
}

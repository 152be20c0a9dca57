package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
)

// An attempt to connect that is given up leaves nothing behind, whenever that is; goleak looks at what is left.
func TestConnectGivenUp(t *testing.T) {
	m := brokertest.Start(t, "")
	config, err := BrokerConfig{Server: m.Address}.complete()
	if err != nil {
		t.Fatal(err)
	}
	for range 4000 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.N(1500))*time.Microsecond)
		if cl, err := connect(ctx, config, Will{Topic: "gone", Payload: []byte("x")}, func(paho.Message) {}); err == nil {
			cl.disconnect()
		}
		cancel()
	}
}

// Why a broker closes a connection is in its log only: the error tells what to look for.
func TestBrokerClosesTheConnection(t *testing.T) {
	m := brokertest.Start(t, "max_packet_size 1000")
	config, err := BrokerConfig{Server: m.Address, ClientID: "mine"}.complete()
	if err != nil {
		t.Fatal(err)
	}
	for name, provoke := range map[string]func(*client){
		"another client takes its ID": func(*client) {
			other, err := connect(t.Context(), config, Will{Topic: "gone"}, func(paho.Message) {})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(other.disconnect)
		},
		"a message is too large":   func(cl *client) { cl.publish("topic", make([]byte, 2000)) },
		"of which it reads little": func(cl *client) { cl.publish("topic", make([]byte, 1<<20)) }, // so it resets the connection
	} {
		t.Run(name, func(t *testing.T) {
			cl, err := connect(t.Context(), config, Will{Topic: "gone"}, func(paho.Message) {})
			if err != nil {
				t.Fatal(err)
			}
			defer cl.disconnect()
			provoke(cl)
			<-cl.done
			if err := cl.lost().Error(); !strings.Contains(err, "the broker closed the connection, ") || !strings.Contains(err, `client ID "mine"`) || !strings.Contains(err, "larger than it allows") {
				t.Errorf("the connection was lost: %s", err)
			}
		})
	}
}

// An error of the network during the handshake tells of it: the broker may speak no TLS.
func TestHandshakeFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.(*net.TCPConn).SetLinger(0) // resets the connection
			_ = conn.Close()
		}
	}()
	c := BrokerConfig{Server: listener.Addr().String(), TLS: &tls.Config{MinVersion: tls.VersionTLS12}, KeepAlive: time.Minute}
	_, err = connect(t.Context(), c, Will{}, nil)
	if err == nil || !strings.Contains(err.Error(), ": TLS with the broker: ") || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error %v", err)
	}
}

type dialerFunc func() error

func (f dialerFunc) DialContext(context.Context, string, string) (net.Conn, error) { return nil, f() }

// An error tells all that is known of where it comes from, and nothing of the library.
func TestConnectFails(t *testing.T) {
	refuse := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not here", http.StatusForbidden) })
	noWebSocket, untrusted := httptest.NewServer(refuse), httptest.NewUnstartedServer(refuse)
	defer noWebSocket.Close()
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	demanding := httptest.NewUnstartedServer(refuse)
	demanding.Config.ErrorLog = log.New(io.Discard, "", 0)
	demanding.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12} // which is told during the handshake
	demanding.StartTLS()
	defer demanding.Close()
	trusting := x509.NewCertPool()
	trusting.AddCert(demanding.Certificate())
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := mute.Accept(); err == nil {
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	defer func() { _ = mute.Close() }()
	noHost := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "proxy.invalid"}}
	for name, tt := range map[string]struct {
		config BrokerConfig
		want   string
	}{
		"the network": {
			BrokerConfig{Server: "broker:1883", dialer: dialerFunc(func() error { return noHost })}, "dial tcp: lookup proxy.invalid: no such host",
		},
		"a proxy": {
			BrokerConfig{Server: "broker:1883", dialer: dialerFunc(func() error { return fmt.Errorf("through the HTTP proxy proxy.invalid:3128: %w", noHost) })},
			"through the HTTP proxy proxy.invalid:3128: dial tcp: lookup proxy.invalid: no such host",
		},
		"that hangs up": {
			BrokerConfig{Server: "broker:1883", dialer: dialerFunc(func() error { return fmt.Errorf("through the HTTP proxy proxy.invalid:3128: %w", io.EOF) })},
			"through the HTTP proxy proxy.invalid:3128: EOF",
		},
		"no WebSocket": {
			BrokerConfig{Server: noWebSocket.Listener.Addr().String(), Transport: TransportWebSocket},
			"ws://" + noWebSocket.Listener.Addr().String() + "/mqtt does not upgrade to a WebSocket",
		},
		"TLS of a WebSocket": {
			BrokerConfig{Server: untrusted.Listener.Addr().String(), Transport: TransportWebSocket, TLS: &tls.Config{MinVersion: tls.VersionTLS12}},
			"TLS with the broker: tls: failed to verify certificate: ",
		},
		"no TLS of a WebSocket": {
			BrokerConfig{Server: noWebSocket.Listener.Addr().String(), Transport: TransportWebSocket, TLS: &tls.Config{MinVersion: tls.VersionTLS12}},
			"TLS with the broker: tls: first record does not look like a TLS handshake",
		},
		"no client certificate": {
			BrokerConfig{Server: demanding.Listener.Addr().String(), Transport: TransportWebSocket, TLS: &tls.Config{RootCAs: trusting, MinVersion: tls.VersionTLS12}},
			"TLS with the broker: remote error: tls: ",
		},
		"no MQTT": {BrokerConfig{Server: mute.Addr().String()}, "the broker closed the connection without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := tt.config.complete()
			if err != nil {
				t.Fatal(err)
			}
			_, err = connect(t.Context(), config, Will{Topic: "gone"}, nil)
			if want := "connecting to the MQTT broker " + config.Server + ": " + tt.want; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("error %v, want %s", err, want)
			}
		})
	}
}

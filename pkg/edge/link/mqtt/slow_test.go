package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/gorilla/websocket"
)

// slowReader reads 4 KiB/s.
type slowReader struct{ net.Conn }

func (s slowReader) Read(p []byte) (int, error) {
	time.Sleep(250 * time.Millisecond)
	return s.Conn.Read(p[:min(len(p), 1<<10)])
}

// slowBroker serves whoever dials it.
type slowBroker func(net.Conn)

func (serve slowBroker) DialContext(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		serve(slowReader{far})
	}()
	return near, nil
}

// confirmAll is a broker for one client.
func confirmAll(t *testing.T, c net.Conn) {
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		answer := packets.NewControlPacket(packets.Puback)
		switch p := p.(type) {
		case *packets.ConnectPacket:
			answer = packets.NewControlPacket(packets.Connack)
		case *packets.PublishPacket:
			answer.(*packets.PubackPacket).MessageID = p.MessageID
		case *packets.DisconnectPacket:
			return
		default:
			t.Errorf("the broker got %s", p)
		}
		if err := answer.Write(c); err != nil {
			t.Errorf("the broker: %v", err)
		}
	}
}

// frames is the server's end of a WebSocket.
type frames struct {
	net.Conn
	ws *websocket.Conn
	r  io.Reader // what is left of one
}

func (f *frames) Read(p []byte) (n int, err error) {
	for n == 0 && err == nil {
		if f.r == nil {
			if _, f.r, err = f.ws.NextReader(); err != nil {
				return 0, err
			}
		}
		if n, err = f.r.Read(p); errors.Is(err, io.EOF) {
			f.r, err = nil, nil
		}
	}
	return n, err
}

func (f *frames) Write(p []byte) (int, error) {
	return len(p), f.ws.WriteMessage(websocket.BinaryMessage, p)
}

// oneConn is a listener for one connection.
type oneConn struct {
	net.Conn
	accepted chan net.Conn
}

func (l oneConn) Addr() net.Addr { return l.LocalAddr() }

func (l oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.accepted
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

// confirmAllOverWebSocket is the same behind a WebSocket.
func confirmAllOverWebSocket(t *testing.T, c net.Conn) {
	l := oneConn{c, make(chan net.Conn, 1)}
	l.accepted <- c
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(l.accepted)
		u := websocket.Upgrader{Subprotocols: []string{"mqtt"}, ReadBufferSize: 1 << 10}
		if ws, err := u.Upgrade(w, r, nil); err != nil {
			t.Error(err)
		} else {
			confirmAll(t, &frames{Conn: ws.NetConn(), ws: ws})
		}
	})}
	_ = s.Serve(l)
}

// TestSlowLink: several messages that take longer than writeTime each, of which the broker takes some all the time, arrive.
func TestSlowLink(t *testing.T) {
	cert := selfSigned(t)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	for name, tt := range map[string]struct {
		config BrokerConfig
		serve  func(*testing.T, net.Conn)
	}{
		"TCP":       {BrokerConfig{}, confirmAll},
		"WebSocket": {BrokerConfig{Transport: TransportWebSocket}, confirmAllOverWebSocket},
		"TLS": {BrokerConfig{TLS: &tls.Config{RootCAs: roots, Time: func() time.Time { return leaf.NotAfter }}}, func(t *testing.T, c net.Conn) {
			confirmAll(t, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.config.Server, tt.config.ClientID = "127.0.0.1:1883", "mine"
				tt.config.dialer = slowBroker(func(c net.Conn) { tt.serve(t, c) })
				config, err := tt.config.complete()
				if err != nil {
					t.Fatal(err)
				}
				cl, err := connect(t.Context(), config, Will{Topic: "gone"}, func(paho.Message) {})
				if err != nil {
					t.Fatal(err)
				}
				defer cl.disconnect()
				var sent []token
				for range 6 {
					sent = append(sent, cl.publish("topic", make([]byte, 64<<10)))
				}
				for i, s := range sent {
					select {
					case <-s.Done():
					case <-cl.done:
						t.Fatalf("message %d: %v", i, cl.lost())
					}
					if err := s.Error(); err != nil {
						t.Errorf("message %d: %v", i, err)
					}
				}
			})
		})
	}
}

package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
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

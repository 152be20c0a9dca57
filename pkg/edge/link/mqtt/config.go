package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"time"
)

// What MQTT packets can be carried by.
const (
	TransportTCP       = "tcp"
	TransportWebSocket = "websocket"
)

const (
	// DefaultMessageNamespace is the prefix of the topics if nothing else is said.
	DefaultMessageNamespace = "/aranya.arhat.dev"
	// defaultMaxPayload is the largest payload of a PUBLISH, in bytes, if nothing else is said.
	defaultMaxPayload = 64 << 10
	// webSocketMaxPayload is the same over WebSocket. With any topic that is within 4096 bytes, which is what Mosquitto
	// writes to a WebSocket at once; what is left of a larger message may wait for 100 ms.
	webSocketMaxPayload = 3 << 10
	// defaultKeepAlive is the keepalive of a client if nothing else is said.
	defaultKeepAlive = 300 * time.Second
	// webSocketKeepAlive is the same over WebSocket: many an HTTP proxy cuts what was silent for a minute. The library
	// may be 5 s late.
	webSocketKeepAlive = 45 * time.Second

	minPayload = 256
	maxPayload = 1 << 20
	// connectTime limits one attempt to connect to a broker.
	connectTime = 20 * time.Second
)

// BrokerConfig says how to connect to a broker.
type BrokerConfig struct {
	// Server is host:port.
	Server string
	// Transport is TransportTCP, the default, or TransportWebSocket.
	Transport string
	// Path of the WebSocket. Default "/mqtt".
	Path string
	// TLS to the broker, nil for none. ServerName defaults to the host of Server.
	TLS *tls.Config

	Username, Password string
	// ClientID is chosen at random if empty. A broker lets only one client use it at a time.
	ClientID string
	// PersistentSession asks the broker to keep the session (cleanSession false). The link does not
	// need that.
	PersistentSession bool
	// KeepAlive is after which silence the broker is probed, in whole seconds; 0 means never.
	KeepAlive time.Duration
	// Will is the will message of the server, for others than the link. If nil, the broker tells devices of
	// DefaultMessageNamespace when the server is gone: an MQTT client has only one will. All other devices notice
	// by the server's pings, or when it is back. A Dialer does not use it.
	Will *Will
	// MaxPayload is the largest payload of a PUBLISH sent or accepted, in bytes, from 256 to 1 MiB.
	// Default 64 KiB, and 3 KiB over WebSocket. The other end may ask for less.
	MaxPayload int
	// dialer makes the TCP connection. Default: that of link.NetDialer.
	dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	}
	// Instance tells servers apart that work with the same message namespace: the replica, and which of its clients.
	// When a server of the same name appears anew, devices of the former one reconnect at once.
	Instance string
}

// DefaultKeepAlive is the keepalive of a client over a transport if nothing else is said.
func DefaultKeepAlive(transport string) time.Duration {
	if transport == TransportWebSocket {
		return webSocketKeepAlive
	}
	return defaultKeepAlive
}

// Will is a message that the broker publishes when the client is lost.
type Will struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// complete sets defaults in a copy.
func (c BrokerConfig) complete() (BrokerConfig, error) {
	if _, _, err := net.SplitHostPort(c.Server); err != nil {
		return c, fmt.Errorf("the address of the broker must be host:port: %w", err)
	}
	switch c.Transport {
	case "":
		c.Transport = TransportTCP
	case TransportTCP, TransportWebSocket:
	default:
		return c, fmt.Errorf("the transport of MQTT must be %q or %q, not %q", TransportTCP, TransportWebSocket, c.Transport)
	}
	if c.Path == "" {
		c.Path = "/mqtt"
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = defaultMaxPayload
		if c.Transport == TransportWebSocket {
			c.MaxPayload = webSocketMaxPayload
		}
	}
	if c.MaxPayload < minPayload || c.MaxPayload > maxPayload {
		return c, fmt.Errorf("the payload limit must be from %d to %d bytes, not %d", minPayload, maxPayload, c.MaxPayload)
	}
	if c.KeepAlive < 0 || c.KeepAlive > math.MaxUint16*time.Second || c.KeepAlive%time.Second != 0 {
		return c, fmt.Errorf("the keepalive must be whole seconds from 0s to 65535s, not %s", c.KeepAlive)
	}
	if c.Password != "" && c.Username == "" {
		return c, errors.New("MQTT 3.1.1 allows a password only together with a user name")
	}
	return c, nil
}

// Package websocket is the transport of the device link through networks and ingresses that let only
// HTTPS pass: the bytes of the link, which are TLS of their own, in binary messages of a WebSocket.
package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// Path is where the gateway serves WebSockets.
const Path = "/link"

// Subprotocol is asked for by devices and confirmed by the gateway.
const Subprotocol = "link.arhat.dev"

// Dialer is the device's end. The zero value is ready to use.
type Dialer struct {
	// TLS of the outer connection. Default: the system's roots. The inner TLS is not affected.
	TLS *tls.Config
	// Timeout for one attempt, 0 for 20 s.
	Timeout time.Duration
}

// Dial implements link.Dialer. The address is a URL, wss://host[:port][/path]; ws:// is allowed as well.
// HTTPS_PROXY, HTTP_PROXY and NO_PROXY are honoured.
func (d Dialer) Dial(ctx context.Context, address string) (*link.Conn, error) {
	return nil, errors.New("no")
}

// Listener is the server's end: an http.Handler that upgrades requests, and a net.Listener that returns
// them as *link.Conn.
type Listener struct{}

// NewListener returns a listener that says it listens on addr.
func NewListener(addr net.Addr) *Listener { return &Listener{} }

// ServeHTTP implements http.Handler. It returns when the connection was handed over to Accept.
func (l *Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) { return nil, net.ErrClosed }

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return nil }

// Close implements net.Listener. Connections that were accepted live on.
func (l *Listener) Close() error { return nil }

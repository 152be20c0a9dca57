// Package websocket is the transport of the device link through networks and ingresses that let only
// HTTPS pass: the bytes of the link, which are TLS of their own, in binary messages of a WebSocket.
package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"arhat.dev/aranya/pkg/edge/link"
)

const (
	// Path is where the gateway serves WebSockets.
	Path = "/link"
	// Subprotocol is asked for by devices and confirmed by the gateway.
	Subprotocol = "link.arhat.dev"

	// dialTime limits one attempt to connect.
	dialTime = 20 * time.Second
	// readBuffer is held by each connection; writeBuffer, which fits a TLS record, only by those that
	// write.
	readBuffer  = 4 << 10
	writeBuffer = 17 << 10
)

// Dialer is the device's end. The zero value is ready to use.
type Dialer struct {
	// TLS of the outer connection. Default: the system's roots. The inner TLS is not affected.
	TLS *tls.Config
}

// Dial implements link.Dialer. The address is a URL, wss://host[:port][/path]; ws:// is allowed as well.
// Without a path it is Path. HTTPS_PROXY, HTTP_PROXY and NO_PROXY are honoured.
func (d Dialer) Dial(ctx context.Context, address string) (*link.Conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = Path
	}
	c, err := DialConn(ctx, u.String(), Options{TLS: d.TLS, Subprotocol: Subprotocol})
	if err != nil {
		return nil, err
	}
	return link.NewConn(c, link.MethodWebSocket), nil
}

// Options of a WebSocket.
type Options struct {
	// TLS for wss. Default: the system's roots.
	TLS *tls.Config
	// Subprotocol that the server must confirm.
	Subprotocol string
	// NetDial makes the TCP connection. Default: that of link.NetDialer.
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)
}

// DialConn opens a WebSocket whose binary messages are a pipe of bytes.
func DialConn(ctx context.Context, address string, o Options) (net.Conn, error) {
	if o.NetDial == nil {
		o.NetDial = link.NetDialer().DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var proxy *url.URL // that is asked to connect, nil for none
	var socket *below
	d := websocket.Dialer{
		// Liveness is watched by what runs inside, at the pace that the user chose.
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := o.NetDial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			socket = &below{Conn: c}
			return socket, nil
		},
		Proxy: func(r *http.Request) (_ *url.URL, err error) {
			proxy, err = http.ProxyFromEnvironment(r)
			return proxy, err
		},
		TLSClientConfig: o.TLS,
		ReadBufferSize:  readBuffer,
		WriteBufferSize: writeBuffer,
		WriteBufferPool: &sync.Pool{}, // an idle link should not hold one
		Subprotocols:    []string{o.Subprotocol},
	}
	ws, response, err := d.DialContext(ctx, address, nil)
	if response != nil {
		defer response.Body.Close() // the library has it in memory
	}
	if err != nil {
		err = explain(address, response, err)
		if response == nil && proxy != nil { // which may be what has failed; the library tells only its status
			err = fmt.Errorf("through the HTTP proxy %s: %w", proxy.Host, err)
		}
		return nil, err
	}
	if ws.Subprotocol() != o.Subprotocol {
		_ = ws.Close()
		return nil, fmt.Errorf("%s answers as a WebSocket, but does not know the subprotocol %q: is it the right address and path?", address, o.Subprotocol)
	}
	return newConn(ws, socket), nil
}

// explain adds what an HTTP server said instead of upgrading.
func explain(address string, response *http.Response, err error) error {
	if response == nil || !errors.Is(err, websocket.ErrBadHandshake) {
		return err
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 256))
	message := strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "?")), " ")
	return fmt.Errorf("%s does not upgrade to a WebSocket, but answers %q: %s", address, response.Status, message)
}

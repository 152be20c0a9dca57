package streaming

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// portForwardSubprotocols are those that name their ports in the request; "" is the oldest.
var portForwardSubprotocols = []string{v4Binary, v4Base64, ""}

// slotTimeout is how long a connection waits for another one to close when a session has too many.
const slotTimeout = time.Second

// PortForwardOptions describe a port-forward session.
type PortForwardOptions struct {
	// Name of what the ports belong to, with its kind, for messages.
	Name string
	// Ports of the old WebSocket protocol. The others name a port per connection.
	Ports []int32
}

// ServePortForward serves a port-forward session: any number of connections, each opened by dial
// when the client asks for it. A connection that cannot be opened is reported on its error stream
// and leaves the session alive. It returns when the session is over. The caller has asked
// CheckPortForward before.
func (s *Server) ServePortForward(w http.ResponseWriter, r *http.Request, opts PortForwardOptions, dial DialFunc) {
	if serve := s.UpgradePortForward(w, r, opts, dial); serve != nil {
		serve()
	}
}

// UpgradePortForward is to ServePortForward as UpgradeCommand is to ServeCommand.
func (s *Server) UpgradePortForward(w http.ResponseWriter, r *http.Request, opts PortForwardOptions, dial DialFunc) (serve func()) {
	return s.upgrade(w, r, func(w *trackedWriter, r *http.Request) func() {
		f := &forwarder{ctx: r.Context(), name: opts.Name, dial: dial, halfClose: s.config.halfCloseTimeout, slots: make(chan struct{}, s.config.MaxConnections)}
		serve := f.upgrade(w, r, opts, s.config)
		if serve == nil {
			return nil
		}
		return func() {
			// Not all that serves a session looks at its context: the end of it cuts the connection.
			stop := context.AfterFunc(f.ctx, w.session.abort)
			defer stop()
			serve()
		}
	})
}

// upgrade returns what serves the protocol that the client asks for.
func (f *forwarder) upgrade(w http.ResponseWriter, r *http.Request, opts PortForwardOptions, config Config) (serve func()) {
	switch {
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		if conn, err := openTunnel(w, r); err == nil {
			return func() { f.serveSPDY(conn, conn, config) }
		}
		return nil
	case wsstream.IsWebSocketRequest(r):
		return func() { // the library does both
			criportforward.ServePortForward(w, r, f, opts.Name, "", &criportforward.V4Options{Ports: opts.Ports},
				config.IdleTimeout, config.StreamCreationTimeout, criportforward.SupportedProtocols)
		}
	}
	if conn, reader, _, err := openSPDY(w, r, criportforward.SupportedProtocols); err == nil {
		return func() { f.serveSPDY(conn, reader, config) }
	}
	return nil
}

// forwarder connects the streams of a client to dialled connections.
type forwarder struct {
	// ctx of the session: the library passes none.
	ctx  context.Context
	name string
	dial DialFunc
	// halfClose is how long a connection lasts that has ended in one direction.
	halfClose time.Duration
	// slots bounds the connections that are open at a time.
	slots chan struct{}
}

// PortForward implements k8s.io/cri-streaming's PortForwarder.
func (f *forwarder) PortForward(_ context.Context, _, _ string, port int32, client io.ReadWriteCloser) error {
	over := make(chan error, 1)
	f.begin(port, client, func(err error) { over <- err })
	return <-over
}

// begin connects client with a port, and calls over once: when it could not, or when the connection is over.
func (f *forwarder) begin(port int32, client io.ReadWriteCloser, over func(error)) {
	if err := f.acquire(); err != nil {
		over(err)
		return
	}
	conn, err := f.dial(f.ctx, uint16(port))
	if err != nil {
		<-f.slots
		over(err)
		return
	}
	stop := context.AfterFunc(f.ctx, func() { conn.Close() })
	relay(client, conn, f.halfClose, func(err error) {
		stop()
		conn.Close()
		<-f.slots
		over(err)
	})
}

// acquire takes a slot. It waits a moment for one: connections of a burst are often short.
func (f *forwarder) acquire() error {
	timer := time.NewTimer(slotTimeout)
	defer timer.Stop()
	select {
	case f.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return fmt.Errorf("this session has %d connections open already, close some first", cap(f.slots))
	case <-f.ctx.Done():
		return context.Cause(f.ctx)
	}
}

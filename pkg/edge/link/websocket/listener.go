package websocket

import (
	"bufio"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"arhat.dev/aranya/pkg/edge/link"
)

const (
	// maxBacklog is how many connections may wait for Accept.
	maxBacklog = 128
	// upgradeTime limits the handshake.
	upgradeTime = 10 * time.Second
)

// Listener is the server's end: an http.Handler that upgrades requests, and a net.Listener that returns
// them as *link.Conn. All methods may be called concurrently.
type Listener struct {
	addr     net.Addr
	upgrader websocket.Upgrader
	backlog  chan *link.Conn

	mu     sync.RWMutex
	closed bool
	ended  chan struct{}
}

// NewListener returns a listener that says it listens on addr.
func NewListener(addr net.Addr) *Listener {
	return &Listener{
		addr: addr,
		upgrader: websocket.Upgrader{
			HandshakeTimeout: upgradeTime,
			ReadBufferSize:   readBuffer,
			WriteBufferSize:  writeBuffer,
			WriteBufferPool:  &sync.Pool{}, // an idle link should not hold one
			Subprotocols:     []string{Subprotocol},
			// Nothing here is done by the authority of a browser's user.
			CheckOrigin: func(*http.Request) bool { return true },
		},
		backlog: make(chan *link.Conn, maxBacklog),
		ended:   make(chan struct{}),
	}
}

// ServeHTTP implements http.Handler, for one path. It returns when the connection was handed over to
// Accept; what is behind TLS inside is none of its business.
func (l *Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "this is where devices connect by WebSocket: \"arhat join --server wss://...\"", http.StatusUpgradeRequired)
		return
	}
	if !slices.Contains(websocket.Subprotocols(r), Subprotocol) {
		http.Error(w, "the subprotocol must be \""+Subprotocol+"\"", http.StatusBadRequest)
		return
	}
	if len(l.backlog) == cap(l.backlog) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many devices connect at the moment; try again", http.StatusServiceUnavailable)
		return
	}
	h := &hijacker{ResponseWriter: w}
	ws, err := l.upgrader.Upgrade(h, r, nil)
	if err != nil { // the client was told
		return
	}
	c := link.NewConn(newConn(ws, h.below), link.MethodWebSocket)
	if !l.offer(c) {
		_ = c.Close()
	}
}

// hijacker has a WebSocket made of a connection that is known.
type hijacker struct {
	http.ResponseWriter
	below *below
}

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.below = &below{Conn: c}
	return h.below, rw, nil
}

func (l *Listener) offer(c *link.Conn) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return false
	}
	select {
	case l.backlog <- c:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.ended:
		return nil, l.closedError()
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.ended:
		return nil, l.closedError()
	}
}

func (l *Listener) closedError() error {
	return &net.OpError{Op: "accept", Net: "websocket", Addr: l.addr, Err: net.ErrClosed}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }

// Close implements net.Listener. Connections that were accepted live on, others are closed.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.closedError()
	}
	l.closed = true
	close(l.ended)
	for {
		select {
		case c := <-l.backlog:
			_ = c.Close()
		default:
			return nil
		}
	}
}

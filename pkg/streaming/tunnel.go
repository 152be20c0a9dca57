package streaming

import (
	"bufio"
	"net"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/tools/portforward"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// tunnelBufferSize is that of what is written: a message of it holds a frame of SPDY.
const tunnelBufferSize = 32 << 10

// tunnelBuffers are in use while a message is written. A connection at rest has none.
var tunnelBuffers sync.Pool

// openTunnel upgrades a request to a WebSocket whose messages carry a SPDY connection. After an error
// the client has its answer already.
func openTunnel(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	upgrader := websocket.Upgrader{
		// For reading, the buffer of the hijacked connection serves: large reads pass it by.
		WriteBufferSize: tunnelBufferSize,
		WriteBufferPool: &tunnelBuffers,
		Subprotocols:    []string{criportforward.WebsocketsSPDYTunnelingPortForwardV1},
		// A browser cannot be tricked into this: it takes credentials that browsers do not add.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	return portforward.NewTunnelingConnectionWithLogger(klog.LoggerWithName(klog.FromContext(r.Context()), "tunnel"), ws), nil
}

// openSPDY upgrades a request to SPDY. After an error the client has its answer already.
func openSPDY(w http.ResponseWriter, r *http.Request, protocols []string) (conn net.Conn, reader *bufio.Reader, protocol string, err error) {
	if protocol, err = httpstream.Handshake(r, w, protocols); err != nil {
		return nil, nil, "", err
	}
	w.Header().Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	w.Header().Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, "", err
	}
	return conn, rw.Reader, protocol, nil
}

package streaming

import (
	"bufio"
	"net"
	"net/http"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/tools/portforward"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// tunnelBufferSize of each direction. SPDY writes frame headers and data separately; more would not
// make messages larger.
const tunnelBufferSize = 32 << 10

// openTunnel upgrades a request to a WebSocket whose messages carry a SPDY connection. The writer
// and the request that it returns look like a SPDY upgrade, so that what serves SPDY serves it.
func openTunnel(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, error) {
	upgrader := websocket.Upgrader{
		ReadBufferSize:  tunnelBufferSize,
		WriteBufferSize: tunnelBufferSize,
		Subprotocols:    []string{criportforward.WebsocketsSPDYTunnelingPortForwardV1},
		// A browser cannot be tricked into this: it takes credentials that browsers do not add.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, nil, err
	}
	conn := portforward.NewTunnelingConnectionWithLogger(klog.LoggerWithName(klog.FromContext(r.Context()), "tunnel"), ws)
	r = r.Clone(r.Context())
	r.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	r.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	r.Header.Set(httpstream.HeaderProtocolVersion, criportforward.ProtocolV1Name)
	return &tunnelWriter{header: http.Header{}, conn: conn}, r, nil
}

// tunnelWriter hands out a connection on which the upgrade has happened already: the answer to it
// goes nowhere.
type tunnelWriter struct {
	header http.Header
	conn   net.Conn
}

func (w *tunnelWriter) Header() http.Header         { return w.header }
func (w *tunnelWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *tunnelWriter) WriteHeader(int)             {}

// Hijack implements http.Hijacker.
func (w *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

package streaming

import (
	"net/http"

	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// ServeCommand serves an exec or an attach. It upgrades the request, runs the command with the
// client's streams, reports how it ended, and returns when the session is over. The caller has asked
// CheckCommand before.
func (s *Server) ServeCommand(w http.ResponseWriter, r *http.Request, opts Options, run CommandFunc) {
	session, err := s.begin(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer session.end()
	tw := &trackedWriter{ResponseWriter: w, session: session}
	r = r.WithContext(session.ctx)
	if wsstream.IsWebSocketRequest(r) {
		s.serveWebSocketCommand(tw, r, opts, run)
		return
	}
	s.serveSPDYCommand(tw, r, opts, run)
}

// sizes holds the newest terminal size. It has one sender, which never blocks: a command that does
// not look at sizes must not hold up the connection.
type sizes struct {
	c chan remotecommand.TerminalSize
}

func newSizes() sizes { return sizes{c: make(chan remotecommand.TerminalSize, 1)} }

func (s sizes) put(size remotecommand.TerminalSize) {
	select {
	case <-s.c:
	default:
	}
	s.c <- size
}

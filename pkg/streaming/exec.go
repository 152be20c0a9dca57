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
	if serve := s.UpgradeCommand(w, r, opts, run); serve != nil {
		serve()
	}
}

// UpgradeCommand is the first half of ServeCommand, and what it returns the second, which must be called
// once, before the handler of the request returns. It is nil if there is no session, of which the client
// has been told. A caller who is at the end of many frames can call it from elsewhere, and give their
// stack free.
func (s *Server) UpgradeCommand(w http.ResponseWriter, r *http.Request, opts Options, run CommandFunc) (serve func()) {
	return s.upgrade(w, r, func(w *trackedWriter, r *http.Request) func() {
		if wsstream.IsWebSocketRequest(r) {
			return s.upgradeWebSocketCommand(w, r, opts, run)
		}
		return s.upgradeSPDYCommand(w, r, opts, run)
	})
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

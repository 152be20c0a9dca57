package streaming

import (
	"context"
	"io"
	"net/http"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	criremotecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
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
	// ServeExec serves attach as well: ServeAttach only has no way to report an exit code.
	criremotecommand.ServeExec(tw, r, executor(run), "", "", "", nil,
		&criremotecommand.Options{Stdin: opts.Stdin, Stdout: opts.Stdout, Stderr: opts.Stderr, TTY: opts.TTY},
		s.config.IdleTimeout, s.config.StreamCreationTimeout, criremotecommand.SupportedStreamingProtocols)
}

// executor runs a CommandFunc on streams that came over SPDY.
type executor CommandFunc

// ExecInContainer implements k8s.io/cri-streaming's Executor.
func (run executor) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan criremotecommand.TerminalSize, _ time.Duration) error {
	streams := IO{Stdin: in, TTY: tty}
	// A nil io.WriteCloser must not become an io.Writer that is not nil.
	if out != nil {
		streams.Stdout = out
	}
	if errOut != nil {
		streams.Stderr = errOut
	}
	if resize == nil {
		return run(ctx, streams)
	}
	// cri-streaming ends its channel with the request's context at the latest.
	sizes := newSizes()
	streams.Resize = sizes.c
	go func() {
		defer close(sizes.c)
		for {
			select {
			case size, ok := <-resize:
				if !ok {
					return
				}
				sizes.put(TerminalSize{Width: size.Width, Height: size.Height})
			case <-ctx.Done():
				return
			}
		}
	}()
	return run(ctx, streams)
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

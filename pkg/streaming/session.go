package streaming

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// lingerTimeout is how long a closing connection waits for its client to close as well.
const lingerTimeout = time.Second

// bufferSize is that of each direction of a hijacked connection: enough for the headers of frames, and
// for keys. What is larger passes it by.
const bufferSize = 512

// session is one streaming request, from before the upgrade to the end of its handler. Its context
// ends when the client is gone, when the server shuts down, or when the session is over.
type session struct {
	server *Server
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	conn *trackedConn
}

// end releases what is left of the session. It is called once, by the handler.
func (s *session) end() {
	s.cancel(errSessionOver)
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
	s.server.mu.Lock()
	delete(s.server.sessions, s)
	s.server.mu.Unlock()
	s.server.wg.Done()
}

// upgrade begins a session. What it returns serves and ends it; it is nil if open returned nothing.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, open func(*trackedWriter, *http.Request) (serve func())) (serve func()) {
	session, err := s.begin(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return nil
	}
	defer func() {
		if serve == nil {
			session.end()
		}
	}()
	inner := open(&trackedWriter{ResponseWriter: w, session: session}, r.WithContext(session.ctx))
	if inner == nil {
		return nil
	}
	return func() {
		defer session.end()
		inner()
	}
}

// abort cuts the connection, if the request was upgraded.
func (s *session) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.abort()
	}
}

// trackedWriter hands the session every connection that is hijacked through it. It has no Unwrap
// method: libraries would use it to reach the writer below.
type trackedWriter struct {
	http.ResponseWriter
	session *session
	timer   *time.Timer // ends the session unless it is stopped by then; nil if there is no hurry
}

// Flush implements http.Flusher for handlers that answer without an upgrade after all.
func (w *trackedWriter) Flush() {
	// An error only says that the writer below cannot flush.
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker.
func (w *trackedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	inner, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	// What the HTTP server has read already comes first. Its own reader would bypass conn.
	early := make([]byte, rw.Reader.Buffered())
	if _, err := io.ReadFull(rw.Reader, early); err != nil {
		inner.Close()
		return nil, nil, err
	}
	conn := &trackedConn{Conn: inner, session: w.session}
	w.session.mu.Lock()
	w.session.conn = conn
	w.session.mu.Unlock()
	if w.session.ctx.Err() != nil {
		conn.abort()
		return nil, nil, context.Cause(w.session.ctx)
	}
	reader := io.Reader(conn)
	if len(early) > 0 {
		reader = io.MultiReader(bytes.NewReader(early), conn)
	}
	// In place: the HTTP server refers to its buffers of 4 KiB until the handler returns.
	*rw.Reader, *rw.Writer = *bufio.NewReaderSize(reader, bufferSize), *bufio.NewWriterSize(conn, bufferSize)
	return conn, rw, nil
}

// trackedConn tells its session when the client is gone.
type trackedConn struct {
	net.Conn
	session *session

	closeOnce, abortOnce sync.Once
}

func (c *trackedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.session.cancel(errClientGone)
	}
	return n, err
}

// Close tells the client that nothing more comes, and gives it a moment to close: to close a
// connection with unread data makes TCP discard what was sent last, the exit code for example.
func (c *trackedConn) Close() error {
	c.closeOnce.Do(func() {
		if !errors.Is(context.Cause(c.session.ctx), errClientGone) {
			c.linger()
		}
		// If the command still runs then the library closes because the client did, or was idle.
		c.session.cancel(errClientGone)
		c.abort()
	})
	return nil
}

func (c *trackedConn) linger() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return
	}
	// Not a deadline: over TLS, CloseWrite waits for a write that is under way, and sets a deadline of its own.
	timer := time.AfterFunc(lingerTimeout, c.abort)
	defer timer.Stop()
	if half.CloseWrite() != nil {
		return
	}
	// It ends with the client's close, or with ours.
	_, _ = io.Copy(io.Discard, c.Conn)
}

func (c *trackedConn) abort() {
	c.abortOnce.Do(func() { c.Conn.Close() })
}

package streaming

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptest"
	"testing"
	"time"
)

// A session over TLS ends also if its client has stopped reading while something is written to it.
func TestCloseWhileWriting(t *testing.T) {
	ts := httptest.NewTLSServer(nil) // for its certificate
	defer ts.Close()
	near, far := net.Pipe()
	defer far.Close()
	server := tls.Server(near, ts.TLS)
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	handshake := make(chan error, 1)
	go func() { handshake <- client.Handshake() }()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-handshake; err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	conn := &trackedConn{Conn: server, session: &session{ctx: ctx, cancel: cancel}}
	written, closed := make(chan error, 1), make(chan struct{})
	go func() {
		_, err := conn.Write(make([]byte, 1<<10))
		written <- err
	}()
	// The first byte says that the write is under way. No more is read.
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(closed)
		conn.Close()
	}()
	select {
	case <-closed:
	case <-time.After(testTimeout):
		t.Fatal("Close waits for the write")
	}
	if err := <-written; err == nil {
		t.Error("what nobody read was written")
	}
}

// open returns the number of open sessions.
func (s *Server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

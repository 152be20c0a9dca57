package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/streaming"
)

// A client that does not read what it is sent keeps its session from ending, but nothing else.
func TestStopDoesNotWaitForStalledClients(t *testing.T) {
	s := &Server{streaming: streaming.NewServer(streaming.Config{}), parts: parts{failed: func(err error) { t.Error(err) }}}
	started := make(chan struct{})
	endless := func(_ context.Context, session streaming.IO) error {
		close(started)
		for chunk := make([]byte, 64<<10); ; {
			if _, err := session.Stdout.Write(chunk); err != nil {
				return err
			}
		}
	}
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		s.streaming.ServeCommand(w, r, streaming.Options{Stdout: true}, endless)
	}))
	defer server.Close()
	client, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if _, err := fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-started
	drained := make(chan struct{})
	s.parts.start(t.Context(), part{"drains", func(ctx context.Context) error { <-ctx.Done(); close(drained); return nil }})

	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := s.stopParts(ctx, 10*time.Millisecond); err != nil {
		t.Errorf("the server is not stopped in good order: %v", err)
	}
	<-drained
	<-ended
}

package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/audit"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/compatibility"
	restclient "k8s.io/client-go/rest"

	"arhat.dev/aranya/pkg/apis/aranya/scheme"
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

// auditLog knows whether it was shut down, before which it may hold what is not written yet.
type auditLog struct {
	audit.Backend
	complete bool
}

func (l *auditLog) Shutdown() { l.complete = true }

// TestStuckPartDoesNotCutTheShutdown would fail if the server ended with requests that are served and audit that is not
// written because one of its parts did not stop.
func TestStuckPartDoesNotCutTheShutdown(t *testing.T) {
	defer func(d time.Duration) { stopTimeout = d }(stopTimeout)
	stopTimeout = 10 * time.Millisecond
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &auditLog{Backend: audit.Union()}
	config := genericapiserver.NewRecommendedConfig(scheme.Codecs)
	config.LoopbackClientConfig = &restclient.Config{}
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.SecureServing = &genericapiserver.SecureServingInfo{Listener: listener}
	config.AuditBackend = log
	generic, err := config.Complete().New("test", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Generic: generic, streaming: streaming.NewServer(streaming.Config{})}
	if err := generic.AddPreShutdownHook("stop-aranya", s.preShutdown); err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	defer close(end)
	s.parts.start(t.Context(), part{"stuck", func(context.Context) error { <-end; return nil }})

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), "stuck did not stop in time") {
		t.Errorf("Run returned %v", err)
	}
	if !log.complete {
		t.Error("the audit log was not shut down")
	}
}

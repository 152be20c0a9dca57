package edgedevice_test

import (
	"io"
	"net/http"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/component-base/metrics/legacyregistry"
)

// TestSessionsAreServedLast looks at the goroutines of open sessions: what has prepared them is not below
// them any more, what counts and audits them is.
func TestSessionsAreServedLast(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	in, stdin := io.Pipe()
	out := &notingWriter{written: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- a.exec(t, wsGET, a.url("online", "exec", "command=cat&stdin=1&stdout=1"), remotecommand.StreamOptions{Stdin: in, Stdout: out})
	}()
	_, _ = stdin.Write([]byte("x"))
	await(t, out.written, "the first byte")
	dialer, err := portforward.NewSPDYOverWebsocketDialerForStreaming(a.url("online", "portforward", ""), &rest.Config{Host: "http://" + a.host, BearerToken: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, serves := range []string{"streaming.serveChannels", "streaming.(*forwarder).serveSPDY"} {
		stack := awaitStack(t, serves)
		if strings.Contains(stack, "handlers.ConnectResource") {
			t.Errorf("a session is served below what prepared it:\n%s", stack)
		}
		if !strings.Contains(stack, "WithAuthorization") && !strings.Contains(stack, "withAuthorization") {
			t.Errorf("a session is served elsewhere than its request:\n%s", stack)
		}
	}
	for _, subresource := range []string{"exec", "portforward"} {
		if n := longRunning(t, subresource); n != 1 {
			t.Errorf("%v long-running requests of %s, want 1", n, subresource)
		}
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	_ = stdin.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A client that upgrades the request and then leaves, without ever opening a stream, leaves no command on
// the device.
func TestCommandOfAClientThatLeaves(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	for _, subresource := range []string{"exec", "attach"} {
		response := a.request(t, spdyPOST, "admin", a.url("online", subresource, queries[subresource]), protocolOf(spdyPOST, subresource))
		if response.StatusCode != http.StatusSwitchingProtocols || a.session.Open() != 1 {
			t.Errorf("%s: answered with %d, %d streams are open", subresource, response.StatusCode, a.session.Open())
		}
		_ = response.Body.Close()
		a.session.Idle(t)
	}
}

type notingWriter struct{ written chan struct{} }

func (w *notingWriter) Write(p []byte) (int, error) {
	select {
	case <-w.written:
	default:
		close(w.written)
	}
	return len(p), nil
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(testTimeout):
		t.Fatalf("timed out waiting for %s", what)
	}
}

// awaitStack returns the stack of the goroutine that runs a function.
func awaitStack(t *testing.T, function string) string {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var all strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil {
			t.Fatal(err)
		}
		for stack := range strings.SplitSeq(all.String(), "\n\n") {
			if strings.Contains(stack, function+"(") {
				return stack
			}
		}
	}
	t.Fatalf("nothing runs %s", function)
	return ""
}

// longRunning is the gauge of requests to a subresource that last.
func longRunning(t *testing.T, subresource string) (n float64) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "apiserver_longrunning_requests" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "subresource" && label.GetValue() == subresource {
					n += metric.GetGauge().GetValue()
				}
			}
		}
	}
	return n
}

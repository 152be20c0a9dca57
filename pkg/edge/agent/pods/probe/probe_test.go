package probe

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outcome of a probe in one word.
func outcome(err error) string {
	var no *Failure
	switch {
	case err == nil:
		return "yes"
	case errors.As(err, &no):
		return "no"
	}
	return "error"
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.UserAgent(), "kube-probe/") || r.Header.Get("X-Test") != "1" || r.Host != "named.example" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/toyes", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/yes", http.StatusFound) })
	mux.HandleFunc("/yes", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/tobad", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain, tls := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer tls.Close()
	c := &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(portOf(t, plain.Listener.Addr().String()))}}}
	for _, tc := range []struct {
		path   string
		port   intstr.IntOrString
		scheme v1.URIScheme
		want   string
	}{
		{"/ok", intstr.FromString("web"), v1.URISchemeHTTP, "yes"},
		{"/ok", intstr.FromInt(portOf(t, tls.Listener.Addr().String())), v1.URISchemeHTTPS, "yes"},
		{"/bad", intstr.FromString("web"), "", "no"},
		{"/away", intstr.FromString("web"), "", "yes, Probe terminated redirects, Response body: <a href=\"http://192.0.2.1/\">Found</a>."},
		{"/toyes", intstr.FromString("web"), "", "yes"},
		{"/round", intstr.FromString("web"), "", "no"},
		{"/tobad", intstr.FromString("web"), "", "no"},
		{"/slow", intstr.FromString("web"), "", "no"},
		{"/ok", intstr.FromString("unknown"), "", "error"},
		{"/ok", intstr.FromInt(1), "", "no"},
	} {
		handler := &v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: tc.path, Port: tc.port, Scheme: tc.scheme, HTTPHeaders: []v1.HTTPHeader{
			{Name: "X-Test", Value: "1"}, {Name: "Host", Value: "named.example"}}}}
		warning, err := Run(t.Context(), nil, handler, Target{Container: c, PodIP: "127.0.0.1"}, 2*time.Second)
		got := outcome(err)
		if warning != "" {
			got += ", " + strings.TrimSpace(warning)
		}
		if got != tc.want {
			t.Errorf("%s on %s: got %s (%v), want %s", tc.path, tc.port.String(), got, err, tc.want)
		}
	}
	_, err := Run(t.Context(), nil, &v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/bad", Port: intstr.FromString("web")}}, Target{Container: c, PodIP: "127.0.0.1"}, time.Minute)
	if err == nil || err.Error() != "HTTP probe failed with statuscode: 500" {
		t.Errorf("got %v", err)
	}
}

// TestHTTP2 asks a server that speaks nothing else, without TLS.
func TestHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
		}
	}))
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	action := &v1.HTTPGetAction{Port: intstr.FromInt(portOf(t, server.Listener.Addr().String()))}
	target := Target{Container: &v1.Container{}, PodIP: "127.0.0.1"}
	if _, err := Run(t.Context(), nil, &v1.ProbeHandler{HTTPGet: action}, target, time.Minute); outcome(err) != "no" {
		t.Errorf("HTTP/1: got %v", err)
	}
	action.Protocol = ptr.To(v1.HTTPProtocolHTTP2)
	if _, err := Run(t.Context(), nil, &v1.ProbeHandler{HTTPGet: action}, target, time.Minute); err != nil {
		t.Errorf("HTTP/2: got %v", err)
	}
}

// TestRequest has a server tell how it was asked.
func TestRequest(t *testing.T) {
	asked := make(chan *http.Request, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r }))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	port := intstr.FromInt(portOf(t, server.Listener.Addr().String()))
	for name, tc := range map[string]struct {
		headers []v1.HTTPHeader
		host    string // empty for the server's address
		want    http.Header
	}{
		"none": {nil, "", http.Header{"Accept": {"*/*"}, "User-Agent": {"agent"}}},
		"its own": {
			[]v1.HTTPHeader{{Name: "host", Value: "named.example"}, {Name: "accept", Value: "text/plain"}, {Name: "user-agent", Value: "other"}},
			"named.example", http.Header{"Accept": {"text/plain"}, "User-Agent": {"other"}},
		},
		"left out": {[]v1.HTTPHeader{{Name: "Accept"}}, "", http.Header{"User-Agent": {"agent"}}},
	} {
		action := &v1.HTTPGetAction{Port: port, Scheme: v1.URISchemeHTTPS, HTTPHeaders: tc.headers}
		req, err := Request(t.Context(), action, Target{Container: &v1.Container{}, PodIP: "127.0.0.1"}, "agent")
		if err != nil {
			t.Fatal(err)
		}
		if code, _, err := Do(req, nil); code != http.StatusOK {
			t.Fatalf("%s: got %d, %v", name, code, err)
		}
		got := <-asked
		if want := cmp.Or(tc.host, server.Listener.Addr().String()); got.Host != want || !reflect.DeepEqual(got.Header, tc.want) {
			t.Errorf("%s: asked %s with %v, want %s with %v", name, got.Host, got.Header, want, tc.want)
		}
		if got.ProtoMajor != 2 {
			t.Errorf("%s: asked over %s, want HTTP/2, which both speak", name, got.Proto)
		}
	}
}

func grpcAction(port int, service string) *v1.ProbeHandler {
	return &v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: int32(port), Service: ptr.To(service)}}
}

func TestTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	service := health.NewServer()
	service.SetServingStatus("good", healthpb.HealthCheckResponse_SERVING)
	service.SetServingStatus("bad", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(server, service)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	port := portOf(t, l.Addr().String())
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	secret, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tlsServer := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certificate.TLS.Certificates[0])))
	healthpb.RegisterHealthServer(tlsServer, service)
	go func() { _ = tlsServer.Serve(secret) }()
	defer tlsServer.Stop()
	overTLS := grpcAction(portOf(t, secret.Addr().String()), "good")
	overTLS.GRPC.Mode = ptr.To(v1.GRPCProbeModeTLS)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedPort := portOf(t, closed.Addr().String())
	closed.Close()
	for name, tc := range map[string]struct {
		handler *v1.ProbeHandler
		want    string
	}{
		"tcp":          {&v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(port)}}, "yes"},
		"tcp closed":   {&v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(closedPort)}}, "no"},
		"grpc":         {grpcAction(port, "good"), "yes"},
		"grpc bad":     {grpcAction(port, "bad"), "no"},
		"grpc unknown": {grpcAction(port, "none"), "no"},
		"grpc closed":  {grpcAction(closedPort, ""), "no"},
		"grpc, TLS":    {overTLS, "yes"},
		"grpc, no TLS": {grpcAction(portOf(t, secret.Addr().String()), "good"), "no"},
		"nothing":      {&v1.ProbeHandler{}, "error"},
	} {
		_, err := Run(t.Context(), nil, tc.handler, Target{Container: &v1.Container{}, PodIP: "127.0.0.1"}, time.Second)
		if got := outcome(err); got != tc.want {
			t.Errorf("%s: got %s (%v), want %s", name, got, err, tc.want)
		}
	}
	if _, err := Run(t.Context(), nil, grpcAction(port, ""), Target{Container: &v1.Container{}}, time.Second); outcome(err) != "error" {
		t.Errorf("a pod without an address: got %v", err)
	}
}

func TestExec(t *testing.T) {
	for name, tc := range map[string]struct {
		out  string
		err  error
		want string
		text string
	}{
		"success": {out: "fine", want: "yes"},
		"failure": {out: "broken", err: utilexec.CodeExitError{Err: errors.New("exit"), Code: 1}, want: "no", text: "broken"},
		"timeout": {err: context.DeadlineExceeded, want: "no", text: `command timed out: "check it" timed out after 1s`},
		"runtime": {err: errors.New("gone"), want: "error", text: "gone"},
	} {
		exec := func(_ context.Context, id string, command []string, timeout time.Duration) ([]byte, error) {
			if id != "id" || len(command) != 2 || timeout != time.Second {
				t.Errorf("got %s, %v, %v", id, command, timeout)
			}
			return []byte(tc.out), tc.err
		}
		_, err := Run(t.Context(), exec, &v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check", "it"}}},
			Target{ContainerID: "id", Container: &v1.Container{}}, time.Second)
		if outcome(err) != tc.want || (err != nil && err.Error() != tc.text) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestExecVariables has the command refer to the container's variables. What they stand for may be secret: an
// answer that never came is told of without it.
func TestExecVariables(t *testing.T) {
	c := &v1.Container{Env: []v1.EnvVar{
		{Name: "PASSWORD", Value: "letmein"},
		{Name: "NODE", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
	}}
	command := []string{"check", "-p=$(PASSWORD)", "$(NODE)", "$(MISSING)", "$$HOME", "$$(PASSWORD)"}
	want := []string{"check", "-p=letmein", "", "$(MISSING)", "$HOME", "$(PASSWORD)"}
	exec := func(_ context.Context, _ string, got []string, _ time.Duration) ([]byte, error) {
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		return nil, context.DeadlineExceeded
	}
	_, err := Run(t.Context(), exec, &v1.ProbeHandler{Exec: &v1.ExecAction{Command: command}}, Target{ContainerID: "id", Container: c}, time.Second)
	if outcome(err) != "no" || strings.Contains(err.Error(), "letmein") {
		t.Errorf("got %v, want a failure that does not tell the password", err)
	}
}

package kubelet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
)

func TestExecAndAttach(t *testing.T) {
	e := start(t, summary)
	for _, client := range []string{"SPDY", "WebSocket"} {
		for _, uid := range []string{"", "uid-web/"} {
			t.Run(client+" "+uid, func(t *testing.T) {
				stream := func(path string, opts remotecommand.StreamOptions) error {
					u, err := url.Parse(e.url + path)
					if err != nil {
						t.Fatal(err)
					}
					executor, err := remotecommand.NewSPDYExecutor(e.config("admin"), http.MethodPost, u)
					if client == "WebSocket" {
						executor, err = remotecommand.NewWebSocketExecutor(e.config("admin"), http.MethodGet, u.String())
					}
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
					defer cancel()
					return executor.StreamWithContext(ctx, opts)
				}
				var out, errOut bytes.Buffer
				err := stream("/exec/default/web/"+uid+"nginx?command=cat&input=1&output=1", remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
				if err != nil || out.String() != "hello" {
					t.Errorf("cat gave %q, %v", out.String(), err)
				}
				err = stream("/exec/default/web/"+uid+"nginx?command=exit&command=42&error=1", remotecommand.StreamOptions{Stderr: &errOut})
				var exit clientexec.CodeExitError
				if !errors.As(err, &exit) || exit.Code != 42 || errOut.String() != "bye" {
					t.Errorf("exit gave %q, %v", errOut.String(), err)
				}
				out.Reset()
				err = stream("/attach/default/web/"+uid+"nginx?input=1&output=1", remotecommand.StreamOptions{Stdin: strings.NewReader("attached"), Stdout: &out})
				if err != nil || out.String() != "attached" {
					t.Errorf("attach gave %q, %v", out.String(), err)
				}
			})
		}
	}
}

func TestRun(t *testing.T) {
	e := start(t, summary)
	code, body := e.do(t, "POST", "admin", "/run/default/web/nginx?cmd=show+a+b", nil)
	got := strings.ReplaceAll(body, " ", "")
	if code != 200 || !strings.Contains(got, `"podUid":"uid-web","container":"nginx"`) || !strings.Contains(got, `["show","a","b"]`) {
		t.Errorf("%d: %s", code, body)
	}
}

func TestPortForward(t *testing.T) {
	e := start(t, summary)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "from the pod") }))
	defer backend.Close()
	u, err := url.Parse(e.url + "/portForward/default/web")
	if err != nil {
		t.Fatal(err)
	}
	roundTripper, upgrader, err := spdy.RoundTripperFor(e.config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	ports := []string{fmt.Sprintf("0:%d", backend.Listener.Addr().(*net.TCPAddr).Port)}
	forwarder, err := portforward.NewOnAddressesForStreaming(spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, u),
		[]string{"127.0.0.1"}, ports, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-result:
		t.Fatal(err)
	}
	local, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testTimeout}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d", local[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "from the pod" {
		t.Errorf("got %q, %v", body, err)
	}
	close(stop)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestLogs(t *testing.T) {
	e := start(t, summary)
	code, body := e.do(t, "GET", "reader", "/containerLogs/default/web/nginx?timestamps=true&previous&tailLines=3&sinceTime=2026-01-01T00:00:00Z&limitBytes=100", nil)
	got := strings.ReplaceAll(body, " ", "")
	for _, want := range []string{`"podUid":"uid-web"`, `"timestamps":true`, `"previous":true`, `"tailLines":"3"`, `"sinceNs":"1767225600000000000"`, `"limitBytes":"100"`} {
		if code != 200 || !strings.Contains(got, want) {
			t.Errorf("%d: %s has no %s", code, got, want)
		}
	}
	if _, body := e.do(t, "GET", "reader", "/containerLogs/default/web/nginx?tail=9", nil); !strings.Contains(body, `"9"`) {
		t.Errorf("tail=9 gave %s", body)
	}
}

// The code of the response is sent when a log breaks off: without a word at its end, it would look complete.
func TestLogThatBreaksOff(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*endpoint)
		want string
	}{
		"the link is lost":        {func(e *endpoint) { e.session.Close(errors.New("the link is lost")) }, "EdgeDevice edge/device-1: the session was cut off"},
		"the server is shut down": {func(e *endpoint) { e.cancel() }, errShutdown.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, summary)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url+"/containerLogs/default/web/nginx?follow=true", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer reader")
			response, err := e.transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if _, err := response.Body.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			test.end(e)
			body, err := io.ReadAll(response.Body)
			if err != nil || !strings.Contains(string(body), test.want) {
				t.Errorf("the log ended with %q, %v", body, err)
			}
		})
	}
}

func TestNode(t *testing.T) {
	e := start(t, summary)
	code, body := e.do(t, "GET", "admin", "/nodes/device-1/pods", nil)
	list := &corev1.PodList{}
	if err := json.Unmarshal([]byte(body), list); err != nil || code != 200 {
		t.Fatalf("%d, %v: %s", code, err, body)
	}
	if len(list.Items) != 1 || list.Items[0].Name != "web" || list.Kind != "PodList" {
		t.Errorf("pods: %s", body)
	}
	code, body = e.do(t, "GET", "admin", "/nodes/device-1/stats/summary", nil)
	if code != 200 || !strings.Contains(body, `"nodeName":"device-1"`) || strings.Contains(body, "victim") || strings.Contains(body, "forged") || strings.Count(body, `"name":"web"`) != 1 {
		t.Errorf("stats: %d: %s", code, body)
	}
	if code, body := e.do(t, "GET", "admin", "/nodes/device-1/healthz", nil); code != 200 || body != "ok" {
		t.Errorf("healthz: %d: %s", code, body)
	}
	if code, body := e.do(t, "GET", "admin", "/nodes/device-1/configz", nil); code != 200 || !strings.Contains(body, `"maxPods":42`) {
		t.Errorf("configz: %d: %s", code, body)
	}
}

func TestResourceMetrics(t *testing.T) {
	e := start(t, summary)
	code, body := e.do(t, "GET", "scraper", "/nodes/device-1/metrics/resource", nil)
	if code != 200 {
		t.Fatalf("%d: %s", code, body)
	}
	for _, want := range []string{
		"node_cpu_usage_seconds_total 2.5 1767229200000",
		"node_memory_working_set_bytes 1.048576e+06 1767229200000",
		`pod_cpu_usage_seconds_total{namespace="default",pod="web"} 1.5 1767229200250`,
		`pod_memory_working_set_bytes{namespace="default",pod="web"} 4096 1767229200000`,
		`container_swap_usage_bytes{container="nginx",namespace="default",pod="web"} 3 1767229200000`,
		`container_swap_limit_bytes{container="nginx",namespace="default",pod="web"} 13 1767229200000`,
		`container_cpu_usage_seconds_total{container="nginx",namespace="default",pod="web"} 1 1767229200000`,
		`container_memory_working_set_bytes{container="nginx",namespace="default",pod="web"} 2048 1767229200000`,
		`container_start_time_seconds{container="nginx",namespace="default",pod="web"} 1.7672256e+09`,
		"resource_scrape_error 0",
	} {
		if !slices.Contains(strings.Split(body, "\n"), want) {
			t.Errorf("%q is not in\n%s", want, body)
		}
	}
	if strings.Contains(body, "victim") || strings.Contains(body, "forged") {
		t.Errorf("a device reports on what is not its own:\n%s", body)
	}
}

func TestResourceMetricsOfDeviceThatFails(t *testing.T) {
	e := start(t, "not JSON")
	code, body := e.do(t, "GET", "scraper", "/nodes/device-1/metrics/resource", nil)
	if code != 200 || !strings.Contains(body, "resource_scrape_error 1") || strings.Contains(body, "cpu") {
		t.Errorf("%d: %s", code, body)
	}
}

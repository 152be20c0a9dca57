package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target/fakedevice"
	"arhat.dev/aranya/pkg/streaming"
)

const testTimeout = 20 * time.Second

// summary of a device that also reports on what is not its own.
const summary = `{
	"node": {"nodeName": "someone-else", "startTime": "2026-01-01T00:00:00Z",
		"cpu": {"time": "2026-01-01T01:00:00Z", "usageNanoCores": 5, "usageCoreNanoSeconds": 2500000000},
		"memory": {"time": "2026-01-01T01:00:00Z", "workingSetBytes": 1048576}},
	"pods": [
		{"podRef": {"name": "web", "namespace": "default", "uid": "uid-web"}, "startTime": "2026-01-01T00:00:00Z",
		 "cpu": {"time": "2026-01-01T01:00:00.25Z", "usageCoreNanoSeconds": 1500000000},
		 "memory": {"time": "2026-01-01T01:00:00Z", "workingSetBytes": 4096},
		 "containers": [
			{"name": "nginx", "startTime": "2026-01-01T00:00:00Z",
			 "cpu": {"time": "2026-01-01T01:00:00Z", "usageCoreNanoSeconds": 1000000000},
			 "memory": {"time": "2026-01-01T01:00:00Z", "workingSetBytes": 2048},
			 "swap": {"time": "2026-01-01T01:00:00Z", "swapAvailableBytes": 10, "swapUsageBytes": 3}},
			{"name": "nginx", "startTime": "2026-01-01T00:00:00Z"},
			{"name": "forged"}]},
		{"podRef": {"name": "web", "namespace": "default", "uid": "uid-web"}, "startTime": "2026-01-01T00:00:00Z"},
		{"podRef": {"name": "victim", "namespace": "default", "uid": "uid-victim"}, "startTime": "2026-01-01T00:00:00Z",
		 "cpu": {"time": "2026-01-01T01:00:00Z", "usageCoreNanoSeconds": 1}, "containers": []}
	]}`

// endpoint is a kubelet endpoint over a fake device, with what was asked of its authorizer.
type endpoint struct {
	url       string
	transport *http.Transport
	session   *fakedevice.Session
	cancel    context.CancelFunc
	pods      cache.Indexer
	only      string // the only Node, if it is
	result    chan error

	mu    sync.Mutex
	asked []string
}

func testPod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "nginx"}}},
	}
}

// noList is a lister by which single pods can be had. To list those of a Node it would go through all of the cluster.
type noList struct {
	corelisters.PodLister
	t *testing.T
}

func (l noList) List(labels.Selector) ([]*corev1.Pod, error) {
	l.t.Error("a request goes through all pods of the cluster")
	return nil, nil
}

// byNode is the name of an index of pods.
const byNode = "node"

func podsOnNode(t *testing.T, pods cache.Indexer, node string) (found []*corev1.Pod) {
	objects, err := pods.ByIndex(byNode, node)
	if err != nil {
		t.Error(err)
	}
	for _, object := range objects {
		found = append(found, object.(*corev1.Pod))
	}
	return found
}

// rules of the users: "verb subresource" on the Node device-1, or on all Nodes with a "*" in front.
var rules = map[string][]string{
	"kube-apiserver": {"* create proxy", "* get proxy"},
	// The ClusterRole of that name is for kube-apiserver.
	"kubelet-api-admin": {"* create proxy", "* get proxy", "* get stats", "* get metrics"},
	"admin":             {"create proxy", "get proxy", "get stats", "get metrics", "get checkpoint", "get log"},
	"reader":            {"get proxy"},
	"scraper":           {"get metrics"},
	"lister":            {"get pods"},
}

func start(t *testing.T, stats string) *endpoint {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, ignore,
			goleak.IgnoreAnyFunction("github.com/moby/spdystream.(*Connection).shutdown"), // of a client
			goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"))
	})
	status := &corev1.NodeStatus{Capacity: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("42")}}
	data, err := status.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{result: make(chan error, 1)}
	e.session = fakedevice.New(t, gateway.Device{Namespace: "edge", Name: "device-1", UID: "1"},
		gateway.Info{NodeStatus: &edgeapi.NodeStatus{Status: data}}, fakedevice.Host([]byte(stats)))

	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byNode: func(pod any) ([]string, error) { return []string{pod.(*corev1.Pod).Spec.NodeName}, nil }})
	for name, node := range map[string]string{"web": "device-1", "victim": "device-2", "foreign": "worker-1"} {
		if err := pods.Add(testPod(name, node)); err != nil {
			t.Fatal(err)
		}
	}
	e.pods = pods
	// A certificate for 127.0.0.1, and its CA for the clients.
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	certificate := certificates.TLS.Certificates[0]
	ca := x509.NewCertPool()
	ca.AddCert(certificates.Certificate())
	certificates.Close()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	streams := streaming.NewServer(streaming.Config{})
	k, err := New(Config{
		Listener:       listener,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil },
		Authenticator: authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
			name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, ok, nil
		}),
		Authorizer:    authorizer.AuthorizerFunc(e.authorize),
		Sessions:      fakedevice.Sessions{e.session},
		Pods:          noList{corelisters.NewPodLister(pods), t},
		PodsOnNode:    func(node string) []*corev1.Pod { return podsOnNode(t, pods, node) },
		DeviceForNode: func(node string) (string, string, bool) { return "edge", node, strings.HasPrefix(node, "device-") },
		LastSeen: func(namespace, name string) (seen time.Time) {
			if namespace == "edge" && name == "device-2" {
				seen = time.Unix(1e6, 0)
			}
			return seen
		},
		OnlyNode:  func() string { return e.only },
		Streaming: streams,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	go func() { e.result <- k.Run(ctx) }()
	e.url = "https://" + listener.Addr().String()
	e.transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca}, DisableKeepAlives: true}
	t.Cleanup(func() {
		cancel()
		if err := <-e.result; err != nil {
			t.Errorf("Run: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		if err := streams.Shutdown(ctx, errShutdown); err != nil {
			t.Error(err)
		}
		e.transport.CloseIdleConnections()
	})
	return e
}

func (e *endpoint) authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, fmt.Sprintf("%s %s/%s %s", a.GetVerb(), a.GetResource(), a.GetSubresource(), a.GetName()))
	if a.GetUser().GetName() == "confusing" {
		return authorizer.DecisionNoOpinion, "", errors.New("the webhook is down")
	}
	what := a.GetVerb() + " " + a.GetSubresource()
	for _, rule := range rules[a.GetUser().GetName()] {
		if rule == "* "+what || rule == what && a.GetName() == "device-1" {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// takeAsked returns what the authorizer was asked since the last time.
func (e *endpoint) takeAsked() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	asked := e.asked
	e.asked = nil
	return asked
}

func (e *endpoint) do(t *testing.T, method, userName, path string, header http.Header) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, e.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header.Clone()
	}
	if userName != "" {
		r.Header.Set("Authorization", "Bearer "+userName)
	}
	response, err := e.transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return response.StatusCode, ""
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func (e *endpoint) config(userName string) *rest.Config {
	return &rest.Config{Host: e.url, BearerToken: userName, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

var (
	webSocket = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io, SPDY/3.1+portforward.k8s.io"},
	}
	spdyHeader = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"v4.channel.k8s.io, portforward.k8s.io"}}
)

// by is what kube-apiserver sends when it forwards a request of nodes/proxy.
func by(node, path string) http.Header {
	return http.Header{forwardedHeader: {"/api/v1/nodes/" + node + "/proxy" + path}}
}

func TestAuthorization(t *testing.T) {
	e := start(t, summary)
	const exec = "/exec/default/web/nginx?command=cat&output=1"
	tests := []struct {
		name, user, method, path string
		header                   http.Header
		code                     int
		asked                    string
	}{
		{"nobody", "", "GET", "/containerLogs/default/web/nginx", nil, 401, ""},
		{"a stranger", "stranger", "GET", "/containerLogs/default/web/nginx", nil, 403, "get nodes/proxy device-1"},
		{"logs are read", "reader", "GET", "/containerLogs/default/web/nginx", nil, 200, "get nodes/proxy device-1"},
		{"exec, SPDY", "reader", "POST", exec, spdyHeader, 403, "create nodes/proxy device-1"},
		{"exec, WebSocket", "reader", "GET", exec, webSocket, 403, "create nodes/proxy device-1"},
		{"exec, plain GET", "reader", "GET", exec, nil, 403, "create nodes/proxy device-1"},
		{"attach", "reader", "GET", "/attach/default/web/nginx?output=1", webSocket, 403, "create nodes/proxy device-1"},
		{"run", "reader", "POST", "/run/default/web/nginx?cmd=cat", nil, 403, "create nodes/proxy device-1"},
		{"port-forward", "reader", "GET", "/portForward/default/web", webSocket, 403, "create nodes/proxy device-1"},
		{"exec is created", "admin", "GET", exec, webSocket, 101, "create nodes/proxy device-1"},
		{"port-forward is created", "admin", "GET", "/portForward/default/web", webSocket, 101, "create nodes/proxy device-1"},
		{"pods by the fine right", "lister", "GET", "/nodes/device-1/pods", nil, 200, "get nodes/pods device-1"},
		{"pods by proxy", "reader", "GET", "/nodes/device-1/pods", nil, 200, "get nodes/pods device-1,get nodes/proxy device-1"},
		{"stats need stats", "reader", "GET", "/nodes/device-1/stats/summary", nil, 403, "get nodes/stats device-1"},
		{"metrics", "scraper", "GET", "/nodes/device-1/metrics/resource", nil, 200, "get nodes/metrics device-1"},
		{"metrics of another", "scraper", "GET", "/nodes/device-2/metrics/resource", nil, 403, "get nodes/metrics device-2"},
		// What is there is told only to those who may see it.
		{"pod of another Node", "reader", "GET", "/containerLogs/default/victim/nginx", nil, 403, "get nodes/proxy device-2"},
		{"no such pod", "reader", "GET", "/containerLogs/default/nobody/nginx", nil, 403, "get nodes/proxy "},
		{"no such pod, for all Nodes", "kube-apiserver", "GET", "/containerLogs/default/nobody/nginx", nil, 404, "get nodes/proxy "},
		{"pod of a real kubelet", "kube-apiserver", "GET", "/containerLogs/default/foreign/nginx", nil, 404, "get nodes/proxy "},
		{"another UID", "kube-apiserver", "POST", "/exec/default/web/another/nginx?command=cat&output=1", spdyHeader, 404, "create nodes/proxy "},
		{"the UID", "kube-apiserver", "POST", "/exec/default/web/uid-web/nginx?command=forbidden&output=1", spdyHeader, 403, "create nodes/proxy device-1"},
		{"unknown path", "stranger", "GET", "/nothing", nil, 403, "get nodes/proxy "},
		{"unknown path, for all", "kube-apiserver", "GET", "/nothing", nil, 404, "get nodes/proxy "},
		// The header chooses among the Nodes that a caller may reach, and permits nothing.
		{"by a Node", "lister", "GET", "/pods", by("device-1", "/pods"), 200, "get nodes/pods device-1"},
		{"by another Node", "lister", "GET", "/pods", by("device-2", "/pods"), 403, "get nodes/pods device-2,get nodes/proxy device-2"},
		{"unknown path by a Node", "reader", "GET", "/nothing", by("device-1", "/nothing"), 404, "get nodes/proxy device-1"},
		{"pod of another Node by a Node", "reader", "GET", "/containerLogs/default/victim/nginx", by("device-1", "/containerLogs/default/victim/nginx"), 403, "get nodes/proxy device-2"},
		{"no such pod by a Node", "reader", "GET", "/containerLogs/default/nobody/nginx", by("device-1", "/containerLogs/default/nobody/nginx"), 403, "get nodes/proxy "},
		{"logs by another Node", "reader", "GET", "/containerLogs/default/web/nginx", by("device-2", "/containerLogs/default/web/nginx"), 403, "get nodes/proxy device-1"},
		{"logs by something else", "reader", "GET", "/containerLogs/default/web/nginx", http.Header{forwardedHeader: {"/x"}}, 403, "get nodes/proxy device-1"},
		{"unknown method", "admin", "OPTIONS", "/nodes/device-1/pods", nil, 403, " nodes/pods device-1, nodes/proxy device-1"},
		{"a broken authorizer", "confusing", "GET", "/nodes/device-1/stats/summary", nil, 500, "get nodes/stats device-1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e.takeAsked()
			code, body := e.do(t, test.method, test.user, test.path, test.header)
			if code != test.code {
				t.Errorf("answered with %d: %s", code, body)
			}
			if asked := strings.Join(e.takeAsked(), ","); asked != test.asked {
				t.Errorf("the authorizer was asked %q, want %q", asked, test.asked)
			}
		})
	}
}

// TestOnlyNode leaves the Node out of paths about it, and names another one.
func TestOnlyNode(t *testing.T) {
	e := start(t, summary)
	e.only = "device-1"
	for _, test := range []struct {
		user, path string
		code       int
		want       string
	}{
		{"lister", "/pods", 200, `"name":"web"`},
		{"lister", "/runningpods/", 200, `"name":"web","namespace":"default","uid":"uid-web"},"spec":{"containers":[{"name":"nginx"`},
		{"lister", "/nodes/device-2/pods", 403, "Forbidden"},
		{"scraper", "/pods", 403, "Forbidden"},
		{"scraper", "/metrics/resource", 200, "node_cpu_usage_seconds_total"},
		{"kube-apiserver", "/containerLogs/default/nobody/nginx", 404, "does not exist"},
		{"kube-apiserver", "/metrics", 403, "Forbidden"},
	} {
		code, body := e.do(t, "GET", test.user, test.path, nil)
		if code != test.code || !strings.Contains(strings.ReplaceAll(body, "\n", ""), test.want) {
			t.Errorf("%s: answered with %d: %s", test.path, code, body)
		}
	}
}

func TestErrors(t *testing.T) {
	e := start(t, summary)
	waiting := testPod("waiting", "device-1")
	waiting.UID = fakedevice.AbsentPod
	waiting.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "nginx", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError"}}}}
	if err := e.pods.Add(waiting); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, user, method, path string
		header                   http.Header
		code                     int
		want                     string
	}{
		{"no upgrade", "admin", "POST", "/exec/default/web/nginx?command=cat&output=1", nil, 400, "Upgrade request required"},
		{"no command", "admin", "POST", "/exec/default/web/nginx?output=1", spdyHeader, 400, "you must specify a command"},
		{"no stream", "admin", "POST", "/exec/default/web/nginx?command=cat", spdyHeader, 400, "at least 1 of stdin, stdout, stderr"},
		{"no container", "admin", "POST", "/exec/default/web/nobody?command=cat&output=1", spdyHeader, 404, `container "nobody" not found`},
		{"policy", "admin", "POST", "/exec/default/web/nginx?command=forbidden&output=1", spdyHeader, 403, "policy.exec of this device"},
		{"method", "admin", "POST", "/containerLogs/default/web/nginx", nil, 405, "Method Not Allowed"},
		{"bad number", "admin", "GET", "/containerLogs/default/web/nginx?tailLines=x", nil, 400, `tailLines="x"`},
		{"bad time", "admin", "GET", "/containerLogs/default/web/nginx?sinceTime=yesterday", nil, 400, `sinceTime="yesterday"`},
		{"bad bool", "admin", "GET", "/containerLogs/default/web/nginx?follow=maybe", nil, 400, `follow="maybe"`},
		{"one stream", "admin", "GET", "/containerLogs/default/web/nginx?stream=Stderr", nil, 400, "use All"},
		{"negative", "admin", "GET", "/containerLogs/default/web/nginx?limitBytes=-1", nil, 422, "limitBytes"},
		{"offline", "kube-apiserver", "GET", "/containerLogs/default/victim/nginx", nil, 502, "edge/device-2 is offline, it was last seen at 1970-01-12T13:46:40Z"},
		{"never seen", "kube-apiserver", "GET", "/nodes/device-3/pods", nil, 502, "edge/device-3 is offline\n"},
		{"log of a pod that waits", "admin", "GET", "/containerLogs/default/waiting/nginx", nil, 400, `container "nginx" in pod "waiting" is waiting to start: CreateContainerConfigError`},
		{"exec into a pod that waits", "admin", "POST", "/exec/default/waiting/nginx?command=cat&output=1", spdyHeader, 404, `container not found ("nginx")`},
		{"attach to a pod that waits", "admin", "POST", "/attach/default/waiting/nginx?output=1", spdyHeader, 404, `container not found ("nginx")`},
		{"run in a pod that waits", "admin", "POST", "/run/default/waiting/nginx?cmd=cat", nil, 404, `container not found ("nginx")`},
		{"not a device", "kube-apiserver", "GET", "/nodes/worker-1/pods", nil, 404, "no edge device"},
		{"which Node", "kube-apiserver", "GET", "/pods", nil, 404, "use /nodes/<node>/pods"},
		{"run without command", "admin", "POST", "/run/default/web/nginx", nil, 400, "cmd"},
		{"run fails", "admin", "POST", "/run/default/web/nginx?cmd=exit+3", nil, 500, "bye\ncommand terminated with exit code 3"},
		{"WebSocket without ports", "admin", "GET", "/portForward/default/web", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, 400, `"port" is required`},
		{"node logs", "admin", "GET", "/nodes/device-1/logs/", nil, 501, "not supported"},
		{"checkpoint", "admin", "GET", "/nodes/device-1/checkpoint/default/web/nginx", nil, 501, "not supported"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, body := e.do(t, test.method, test.user, test.path, test.header)
			if code != test.code || !strings.Contains(body, test.want) {
				t.Errorf("answered with %d: %s", code, body)
			}
		})
	}
}

package kubelet

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/sets"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

func TestForwardedNode(t *testing.T) {
	const node = "/api/v1/nodes/device-1/proxy"
	tests := []struct {
		name, uri, path string
		want            string
		refused         bool
	}{
		{"no header", "", "/pods", "", false},
		{"a Node", node + "/pods", "/pods", "device-1", false},
		{"a domain", "/api/v1/nodes/device-1.example.org/proxy/pods", "/pods", "device-1.example.org", false},
		{"with a port", "/api/v1/nodes/device-1:10250/proxy/stats/summary", "/stats/summary", "device-1", false},
		{"with scheme and port", "/api/v1/nodes/https:device-1:10250/proxy/stats/summary", "/stats/summary", "device-1", false},
		{"a slash at the end", node + "/runningpods/", "/runningpods/", "device-1", false},
		{"nothing", node + "/", "/", "device-1", false},
		{"escaped", node + "/logs/a%20b%3F", "/logs/a%20b%3F", "device-1", false},
		{"the Node once more", node + "/nodes/device-1/pods", "/nodes/device-1/pods", "device-1", false},
		{"another path", node + "/pods", "/stats/summary", "", true},
		{"a longer path", node + "/pods/pods", "/pods", "", true},
		{"half a segment", node + "/runningpods", "pods", "", true},
		{"climbed to another Node", "/api/v1/nodes/device-2/proxy/pods", "/device-2/proxy/pods", "", true},
		{"climbed to the root", "/pods/pods", "/pods", "", true},
		{"two Nodes", node + "/api/v1/nodes/device-2/proxy/pods", "/pods", "", true},
		{"no Node", "/api/v1/nodes//proxy/pods", "/pods", "", true},
		{"no Node but a port", "/api/v1/nodes/:10250/proxy/pods", "/pods", "", true},
		{"an unknown scheme", "/api/v1/nodes/ftp:device-1:1/proxy/pods", "/pods", "", true},
		{"a pod's proxy", "/api/v1/namespaces/default/pods/web/proxy/pods", "/pods", "", true},
		{"of somebody else", "/dashboard", "/pods", "", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "https://aranya/", nil)
			u, err := url.Parse(test.path)
			if err != nil {
				t.Fatal(err)
			}
			r.URL = u
			r.Header.Set(forwardedHeader, test.uri)
			got, err := forwardedNode(r)
			if got != test.want || errors.IsForbidden(err) != test.refused || (err == nil) == test.refused {
				t.Errorf("got %q, %v", got, err)
			}
			r.Header.Set("Connection", "keep-alive, Upgrade")
			if got, err := forwardedNode(r); got != "" || err != nil {
				t.Errorf("with an upgrade got %q, %v", got, err)
			}
		})
	}
}

// proxyErrors answers with an error of kube-apiserver's own.
type proxyErrors struct{ w http.ResponseWriter }

func (e proxyErrors) Error(err error) { writeError(e.w, err) }

// behindNodeProxy returns the endpoint as users reach it by the subresource proxy of Nodes: by the handler
// that kube-apiserver has for that, set up in the same way, and with its rights.
func behindNodeProxy(t *testing.T, e *endpoint) *endpoint {
	t.Helper()
	infos := apirequest.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := infos.NewRequestInfo(r)
		if err != nil || info.Resource != "nodes" || info.Subresource != "proxy" {
			http.Error(w, "not nodes/proxy", http.StatusTeapot)
			return
		}
		path := "/" + strings.Join(info.Parts[3:], "/")
		if strings.HasSuffix(info.Path, "/") {
			path += "/"
		}
		location, err := url.Parse(e.url)
		if err != nil {
			t.Error(err)
			return
		}
		location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, path)
		r.Header.Set("Authorization", "Bearer kubelet-api-admin")
		handler := proxy.NewUpgradeAwareHandler(location, e.transport, true, false, proxy.NewErrorResponder(proxyErrors{w}))
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return &endpoint{url: server.URL + "/api/v1/nodes/", transport: e.transport}
}

// TestNodeProxy asks for what is of one Node by the proxy of that Node and of another.
func TestNodeProxy(t *testing.T) {
	e := start(t, summary)
	nodes := behindNodeProxy(t, e)
	const logs = "containerLogs/default/web/nginx"
	forged := func(uri string) http.Header { return http.Header{forwardedHeader: {uri}} }
	tests := []struct {
		name, method, path string
		header             http.Header
		code               int
		want               string
	}{
		{"stats", "GET", "device-1/proxy/stats/summary", nil, 200, `"nodeName":"device-1"`},
		{"scheme and port", "GET", "https:device-1:10250/proxy/stats/summary?only_cpu_and_memory=true", nil, 200, `"nodeName":"device-1"`},
		{"port", "GET", "device-1:10250/proxy/stats/summary", nil, 200, `"nodeName":"device-1"`},
		{"pods", "GET", "device-1/proxy/pods", nil, 200, `"name":"web"`},
		{"running pods", "GET", "device-1/proxy/runningpods/", nil, 200, `"name":"web"`},
		{"two slashes", "GET", "device-1/proxy//pods", nil, 200, `"name":"web"`},
		{"metrics", "GET", "device-1/proxy/metrics/resource", nil, 200, "node_cpu_usage_seconds_total"},
		{"cadvisor", "GET", "device-1/proxy/metrics/cadvisor", nil, 501, "not supported"},
		{"configz", "GET", "device-1/proxy/configz", nil, 200, `"maxPods":42`},
		{"healthz", "GET", "device-1/proxy/healthz", nil, 200, "ok"},
		{"healthz of a device that is offline", "GET", "device-2/proxy/healthz", nil, 502, "edge/device-2 is offline"},
		{"pods of a device that is offline", "GET", "device-2/proxy/pods", nil, 502, "edge/device-2 is offline"},
		{"not a device", "GET", "worker-1/proxy/pods", nil, 404, "no edge device"},
		{"unknown path", "GET", "device-1/proxy/nothing", nil, 404, "not found"},
		{"the Node once more", "GET", "device-1/proxy/nodes/device-1/pods", nil, 200, `"name":"web"`},
		{"another Node", "GET", "device-1/proxy/nodes/device-2/pods", nil, 403, `by the proxy of the Node "device-1" and asks for the Node "device-2"`},
		{"what another Node does not have", "GET", "device-1/proxy/nodes/device-2/nothing", nil, 403, `asks for the Node "device-2"`},

		{"logs", "GET", "device-1/proxy/" + logs, nil, 200, ""},
		{"logs, all escaped", "GET", "device-1/proxy/containerLogs%2Fdefault%2Fweb%2Fnginx", nil, 200, ""},
		{"an escaped name", "GET", "device-1/proxy/containerLogs/default/web/ng%20inx", nil, 404, `container "ng inx" not found`},
		{"run", "POST", "device-1/proxy/run/default/web/nginx?cmd=show", nil, 200, "uid-web"},
		{"logs of another Node", "GET", "device-2/proxy/" + logs, nil, 403, `the Node "device-2", whose proxy this request came by, has no pod default/web`},
		{"run on another Node", "POST", "device-2/proxy/run/default/web/nginx?cmd=show", nil, 403, "has no pod default/web"},
		{"exec without upgrade", "POST", "device-2/proxy/exec/default/web/nginx?command=show&output=1", nil, 403, "has no pod default/web"},
		{"no such pod", "GET", "device-2/proxy/containerLogs/default/nobody/nginx", nil, 403, "has no pod default/nobody"},

		{"the user's own header", "GET", "device-2/proxy/" + logs, forged("/api/v1/nodes/device-1/proxy/" + logs), 403, "has no pod"},
		{"and for another path", "GET", "device-1/proxy/nodes/device-2/pods", forged("/api/v1/nodes/device-2/proxy/nodes/device-2/pods"), 403, "asks for"},
		{"the header taken off", "GET", "device-2/proxy/" + logs, http.Header{"Connection": {forwardedHeader}}, 403, "has no pod"},
		{"climbing", "GET", "device-1/proxy/../../device-2/proxy/pods", nil, 403, "names no Node"},
		{"climbing, escaped", "GET", "device-1/proxy/..%2F..%2Fdevice-2/proxy/pods", nil, 403, "names no Node"},
		{"climbing within", "GET", "device-2/proxy/" + logs + "/x/..", nil, 403, "names no Node"},

		// Users' headers alone come with an upgrade.
		{"logs, upgraded", "GET", "device-2/proxy/" + logs, webSocket, 400, "does not upgrade connections"},
		{"run, upgraded", "POST", "device-2/proxy/run/default/web/nginx?cmd=exit", webSocket, 400, "does not upgrade connections"},
		{"pods, upgraded", "GET", "device-2/proxy/nodes/device-1/pods", spdyHeader, 400, "does not upgrade connections"},
		// What remains, as docs/security.md tells. kube-apiserver leaves out the query.
		{"exec, upgraded", "POST", "device-2/proxy/exec/default/web/nginx?command=show&output=1", spdyHeader, 400, "at least 1 of stdin"},
		{"port-forward, upgraded", "POST", "device-2/proxy/portForward/default/web", spdyHeader, 101, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			opened := e.session.Opened()
			code, body := nodes.do(t, test.method, "user", test.path, test.header)
			if code != test.code || !strings.Contains(body, test.want) {
				t.Errorf("answered with %d: %s", code, body)
			}
			if code >= 400 && e.session.Opened() != opened {
				t.Error("the request has reached the device")
			}
		})
	}
}

package edgedevice_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target/fakedevice"
	generatedopenapi "arhat.dev/aranya/pkg/generated/openapi"
	"arhat.dev/aranya/pkg/registry/edgedevice"
	"arhat.dev/aranya/pkg/streaming"
)

const testTimeout = 20 * time.Second

// api is a real generic API server with the streaming subresources over a fake device.
type api struct {
	host    string
	session *fakedevice.Session
	events  *record.FakeRecorder
	issued  *issuer
	server  *streaming.Server
}

// deviceStore is the storage of edgedevices.
type deviceStore map[string]*aranya.EdgeDevice

func (deviceStore) New() runtime.Object     { return &aranya.EdgeDevice{} }
func (deviceStore) Destroy()                {}
func (deviceStore) NamespaceScoped() bool   { return true }
func (deviceStore) GetSingularName() string { return "edgedevice" }

func (s deviceStore) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if device, ok := s[genericapirequest.NamespaceValue(ctx)+"/"+name]; ok {
		return device.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(aranya.Resource("edgedevices"), name)
}

type issuer struct {
	mu      sync.Mutex
	devices []gateway.Device
	ttls    []time.Duration
}

func (i *issuer) IssueToken(_ context.Context, device gateway.Device, ttl time.Duration) (string, time.Time, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.devices, i.ttls = append(i.devices, device), append(i.ttls, ttl)
	return "id.secret.hash", time.Unix(2_000_000_000, 0), nil
}

func edgeDevice(name string, change func(*aranya.EdgeDevice)) *aranya.EdgeDevice {
	device := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: name, UID: "uid-of-device"}}
	if change != nil {
		change(device)
	}
	return device
}

func pod(namespace, name, node string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "uid-of-pod"}, Spec: corev1.PodSpec{NodeName: node}}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c})
	}
	return p
}

// may is what a user may do, by "verb resource/subresource". "*" is everything.
type may []string

// newAPI starts the server. A user authenticates by its name as bearer token.
func newAPI(t *testing.T, users map[string]may) *api {
	t.Helper()
	return newStreamingAPI(t, users, streaming.Config{})
}

func newStreamingAPI(t *testing.T, users map[string]may, config streaming.Config) *api {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, ignore,
			// Clients that were refused or cut, and queues of the generic server that have no end.
			goleak.IgnoreAnyFunction("github.com/moby/spdystream.(*Connection).shutdown"),
			goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"),
			goleak.IgnoreAnyFunction("k8s.io/client-go/util/workqueue.(*Typed[...]).updateUnfinishedWorkLoop"),
			goleak.IgnoreAnyFunction("k8s.io/client-go/util/workqueue.(*delayingType[...]).waitingLoop"),
		)
	})
	a := &api{
		session: fakedevice.New(t, gateway.Device{Namespace: "edge", Name: "online", UID: "uid-of-device"}, gateway.Info{}, fakedevice.Host(nil)),
		events:  record.NewFakeRecorder(10),
		issued:  &issuer{},
		server:  streaming.NewServer(config),
	}
	devices := deviceStore{
		"edge/online":  edgeDevice("online", nil),
		"edge/new":     edgeDevice("new", nil),
		"edge/offline": edgeDevice("offline", func(d *aranya.EdgeDevice) { d.Status.LastSeen = &metav1.Time{Time: time.Unix(900_000, 0)} }),
		"edge/leaving": edgeDevice("leaving", func(d *aranya.EdgeDevice) { d.DeletionTimestamp = &metav1.Time{Time: time.Unix(1_000_000, 0)} }),
		"edge/closed": edgeDevice("closed", func(d *aranya.EdgeDevice) {
			d.Spec.Host = aranya.HostSpec{AllowExec: ptr.To(false), AllowAttach: ptr.To(false), AllowLog: ptr.To(false), AllowPortForward: ptr.To(false)}
		}),
	}
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	waiting := pod("edge", "waiting", "online", "app")
	waiting.UID = fakedevice.AbsentPod
	debugged := pod("edge", "debugged", "online", "app")
	debugged.Spec.InitContainers = []corev1.Container{{Name: "setup"}}
	debugged.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}}
	annotated := pod("edge", "annotated", "online", "sidecar", "main")
	annotated.Annotations = map[string]string{"kubectl.kubernetes.io/default-container": "main"}
	misnamed := pod("edge", "misnamed", "online", "sidecar", "main")
	misnamed.Annotations = map[string]string{"kubectl.kubernetes.io/default-container": "mian"}
	for _, p := range []*corev1.Pod{pod("edge", "web", "online", "nginx", "sidecar"), annotated, misnamed, waiting, debugged, pod("other", "web", "online", "app"), pod("edge", "elsewhere", "worker-1", "app")} {
		if err := pods.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	authorize := authorizer.AuthorizerFunc(func(_ context.Context, attributes authorizer.Attributes) (authorizer.Decision, string, error) {
		what := fmt.Sprintf("%s %s/%s", attributes.GetVerb(), attributes.GetResource(), attributes.GetSubresource())
		for _, rule := range users[attributes.GetUser().GetName()] {
			if rule == "*" || rule == what || rule == what+" in "+attributes.GetNamespace() {
				return authorizer.DecisionAllow, "", nil
			}
		}
		return authorizer.DecisionNoOpinion, "no rule says so", nil
	})
	c := &edgedevice.Connector{
		Devices: devices, Sessions: fakedevice.Sessions{a.session}, Pods: corelisters.NewPodLister(pods),
		DeviceForNode: func(node string) (string, string, bool) { return "edge", node, node == "online" },
		LastSeen: func(_, name string) (seen time.Time) {
			if name == "offline" {
				seen = time.Unix(1_000_000, 0) // the stored status does not tell of it yet
			}
			return seen
		},
		Authorizer: authorize, Streaming: a.server,
	}
	proxy := edgedevice.NewProxyREST(c)
	t.Cleanup(proxy.Destroy)
	a.host = serveAPI(t, authorize, map[string]rest.Storage{
		"edgedevices":             devices,
		"edgedevices/exec":        edgedevice.NewExecREST(c),
		"edgedevices/attach":      edgedevice.NewAttachREST(c),
		"edgedevices/log":         edgedevice.NewLogREST(c),
		"edgedevices/portforward": edgedevice.NewPortForwardREST(c),
		"edgedevices/proxy":       proxy,
		"edgedevices/token":       edgedevice.NewTokenREST(devices, a.issued, "gateway.example.com:7443", a.events),
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		if err := a.server.Shutdown(ctx, errors.New("the test is over")); err != nil {
			t.Error(err)
		}
	})
	return a
}

func serveAPI(t *testing.T, authorize authorizer.Authorizer, storage map[string]rest.Storage) (host string) {
	t.Helper()
	config := genericapiserver.NewConfig(scheme.Codecs)
	config.ExternalAddress = "127.0.0.1:443"
	config.LoopbackClientConfig = &restclient.Config{}
	config.EffectiveVersion = basecompatibility.NewEffectiveVersionFromString("1.37", "", "")
	namer := openapi.NewDefinitionNamer(scheme.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Version = "test"
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Version = "test"
	config.Authorization.Authorizer = authorize
	config.Authentication.Authenticator = authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, ok, nil
	})
	config.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	config.BuildHandlerChainFunc = func(handler http.Handler, c *genericapiserver.Config) http.Handler {
		return genericapiserver.DefaultBuildHandlerChain(edgedevice.WithRoutine(handler), c)
	}
	server, err := config.Complete(informers.NewSharedInformerFactory(fake.NewClientset(), 0)).New("test", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Destroy)
	group := genericapiserver.NewDefaultAPIGroupInfo(aranya.GroupName, scheme.Scheme, scheme.ParameterCodec, scheme.Codecs)
	group.VersionedResourcesStorageMap[v1alpha1.SchemeGroupVersion.Version] = storage
	if err := server.InstallAPIGroup(&group); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(server.Handler)
	t.Cleanup(ts.Close)
	return ts.Listener.Addr().String()
}

// url of a subresource of a device in the namespace edge.
func (a *api) url(device, subresource, query string) *url.URL {
	return &url.URL{
		Scheme: "http", Host: a.host, RawQuery: query,
		Path: "/apis/aranya.arhat.dev/v1alpha1/namespaces/edge/edgedevices/" + device + "/" + subresource,
	}
}

// kinds of requests that reach the connect subresources.
const (
	plainGET  = "GET"
	plainPOST = "POST"
	spdyPOST  = "SPDY POST"
	wsGET     = "WebSocket GET"
)

// request sends one and returns the response, whose body is for the caller to close.
func (a *api) request(t *testing.T, kind, userName string, u *url.URL, protocol string) *http.Response {
	t.Helper()
	method := http.MethodGet
	if kind == plainPOST || kind == spdyPOST {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(t.Context(), method, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+userName)
	r.Close = true
	switch kind {
	case spdyPOST:
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "SPDY/3.1")
		r.Header.Set("X-Stream-Protocol-Version", protocol)
	case wsGET:
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set("Sec-WebSocket-Version", "13")
		r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
		r.Header.Set("Sec-WebSocket-Protocol", protocol)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// status sends a request that is not served, and returns the status that it is answered with.
func (a *api) status(t *testing.T, kind, userName string, u *url.URL, protocol string) (int, string) {
	t.Helper()
	response := a.request(t, kind, userName, u, protocol)
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

// protocolOf is one that a client of the subresource offers.
func protocolOf(kind, subresource string) string {
	switch {
	case subresource == "portforward" && kind == wsGET:
		return "SPDY/3.1+portforward.k8s.io"
	case subresource == "portforward":
		return "portforward.k8s.io"
	case kind == wsGET:
		return "v5.channel.k8s.io"
	}
	return "v4.channel.k8s.io"
}

var queries = map[string]string{"exec": "command=cat&stdin=true&stdout=true", "attach": "stdin=true&stdout=true", "portforward": "", "log": "", "proxy": ""}

// TestRights: one who may only "get" gets nothing but logs and plain requests to a proxied port.
func TestRights(t *testing.T) {
	a := newAPI(t, map[string]may{
		"reader": {"get edgedevices/exec", "get edgedevices/attach", "get edgedevices/portforward", "get edgedevices/proxy", "get edgedevices/log"},
		"writer": {"create edgedevices/exec", "create edgedevices/attach", "create edgedevices/portforward", "create edgedevices/proxy"},
		"both": {
			"create edgedevices/exec", "create edgedevices/attach", "create edgedevices/portforward", "create edgedevices/proxy",
			"get edgedevices/exec", "get edgedevices/attach", "get edgedevices/portforward", "get edgedevices/proxy",
		},
	})
	for _, subresource := range []string{"exec", "attach", "portforward", "proxy"} {
		for _, kind := range []string{plainGET, plainPOST, spdyPOST, wsGET} {
			for userName, permitted := range map[string]bool{
				"reader": subresource == "proxy" && kind == plainGET,
				// The request itself is a "get" as well.
				"writer": kind == plainPOST || kind == spdyPOST,
				"both":   true,
				"nobody": false,
			} {
				t.Run(subresource+" "+kind+" "+userName, func(t *testing.T) {
					device := "online"
					if subresource == "proxy" {
						device = "online:1" // nobody listens there
					}
					code, body := a.status(t, kind, userName, a.url(device, subresource, queries[subresource]), protocolOf(kind, subresource))
					if permitted == (code == http.StatusForbidden) {
						t.Errorf("answered with %d: %s", code, body)
					}
					if code == http.StatusForbidden && !strings.Contains(body, fmt.Sprintf(`\"%s\" cannot`, userName)) {
						t.Errorf("the answer does not say who cannot do what: %s", body)
					}
				})
			}
		}
	}
}

func TestErrorsBeforeTheUpgradeAreStatuses(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}, "tenant": {"create edgedevices/exec", "get edgedevices/exec", "get edgedevices/log", "get pods/log in edge", "create pods/exec in edge"}})
	tests := []struct {
		name, user, kind, device, subresource, query string
		code                                         int
		want                                         string
	}{
		{"unknown device", "admin", spdyPOST, "nobody", "exec", "command=cat&stdout=true", 404, `edgedevices.aranya.arhat.dev \"nobody\" not found`},
		{"offline", "admin", wsGET, "offline", "exec", "command=cat&stdout=true", 503, "last seen at 1970-01-12T13:46:40Z"},
		{"never enrolled", "admin", wsGET, "new", "attach", "stdout=true", 503, "no agent has enrolled"},
		{"no command", "admin", spdyPOST, "online", "exec", "stdout=true", 422, "command"},
		{"no stream", "admin", spdyPOST, "online", "exec", "command=cat", 422, "stdout"},
		{"tty and stderr", "admin", spdyPOST, "online", "exec", "command=cat&tty=true&stdout=true&stderr=true", 422, "a terminal has one output"},
		{"not an upgrade", "admin", plainPOST, "online", "exec", "command=cat&stdout=true", 400, "Upgrade request required"},
		{"device refuses", "admin", spdyPOST, "online", "exec", "command=forbidden&stdout=true", 403, "policy.exec of this device"},
		{"exec is off", "admin", spdyPOST, "closed", "exec", "command=cat&stdout=true", 403, "spec.host.allowExec"},
		{"attach is off", "admin", wsGET, "closed", "attach", "stdout=true", 403, "spec.host.allowAttach"},
		{"log is off", "admin", plainGET, "closed", "log", "", 403, "spec.host.allowLog"},
		{"portforward is off", "admin", spdyPOST, "closed", "portforward", "", 403, "spec.host.allowPortForward"},
		{"proxy is off", "admin", plainGET, "closed:80", "proxy", "", 403, "spec.host.allowPortForward"},
		{"pod and host", "admin", spdyPOST, "online", "portforward", "pod=web&host=printer", 422, "host"},
		{"unknown pod", "admin", spdyPOST, "online", "exec", "command=cat&stdout=true&pod=nobody", 404, "nobody"},
		{"pod elsewhere", "admin", spdyPOST, "online", "exec", "command=cat&stdout=true&pod=elsewhere", 400, "not bound to the Node of EdgeDevice edge/online"},
		{"unknown container", "admin", spdyPOST, "online", "exec", "command=cat&stdout=true&pod=web&container=nobody", 400, "container nobody is not valid for pod web"},
		{"default container that is not there", "admin", spdyPOST, "online", "exec", "command=cat&stdout=true&pod=misnamed", 400, "container mian is not valid for pod misnamed out of: sidecar, main"},
		{"exec into a pod that waits", "admin", spdyPOST, "online", "exec", "command=cat&stdout=true&pod=waiting", 404, `container not found (\"app\")`},
		{"attach to a pod that waits", "admin", spdyPOST, "online", "attach", "stdout=true&pod=waiting", 404, `container not found (\"app\")`},
		{"log of a pod that waits", "admin", plainGET, "online", "log", "pod=waiting", 400, `container \"app\" in pod \"waiting\" is waiting to start: ContainerCreating`},
		{"pod of another", "tenant", spdyPOST, "online", "exec", "command=cat&stdout=true&pod=other/web", 403, `cannot create resource \"pods/exec\" in API group \"\" in the namespace \"other\"`},
		{"log of another", "tenant", plainGET, "online", "log", "pod=other/web", 403, `cannot get resource \"pods/log\"`},
		{"nor does it tell what there is", "tenant", plainGET, "online", "log", "pod=other/nobody", 403, `cannot get resource \"pods/log\"`},
		{"two sources", "admin", plainGET, "online", "log", "path=/var/log/syslog&unit=ssh.service", 422, "at most one"},
		{"bad tail", "admin", plainGET, "online", "log", "tailLines=-1", 422, "tailLines"},
		{"device refuses a log", "admin", plainGET, "online", "log", "path=/forbidden", 403, "policy.log of this device"},
		{"bad port", "admin", plainGET, "online:http", "proxy", "", 400, "must be a number from 1 to 65535"},
		{"bad scheme", "admin", plainGET, "ftp:online:21", "proxy", "", 400, "[scheme:]name[:port]"},
		{"refused connection", "admin", plainGET, "online:1", "proxy", "", 503, "connection refused"},
		{"refused connection, upgraded", "admin", wsGET, "online:1", "proxy", "", 503, "connection refused"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, body := a.status(t, test.kind, test.user, a.url(test.device, test.subresource, test.query), protocolOf(test.kind, test.subresource))
			if code != test.code || !strings.Contains(body, test.want) {
				t.Errorf("answered with %d: %s", code, body)
			}
			if !strings.Contains(body, `"kind":"Status"`) {
				t.Errorf("not an API status: %s", body)
			}
		})
	}
	a.session.Idle(t)
}

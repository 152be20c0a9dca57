package edgedevice

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/streaming/pkg/httpstream"
	netutils "k8s.io/utils/net"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
)

// Limits of the connections that the proxy holds. Each is a stream on a device's link.
const (
	maxProxyConnsPerPort  = 64
	maxProxyIdlePerPort   = 4
	maxProxyIdle          = 1024
	proxyIdleTimeout      = 30 * time.Second
	proxyHandshakeTimeout = 10 * time.Second
	maxProxyHeader        = 1 << 20
)

// proxyMethods are those of services/proxy.
var proxyMethods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}

// ProxyREST is the subresource edgedevices/proxy: HTTP to a port of the device's loopback. The device
// is named as [scheme:]name[:port], as in services/proxy. The port is 80 by default, or 443 for the
// scheme https. The certificate of an https port is not verified, as that of a service's is not: the
// way to it is the device's own link.
type ProxyREST struct {
	c         *Connector
	transport *http.Transport
	// upgrades only tells how connections that are to be upgraded are dialled: each has one request.
	upgrades *http.Transport
}

var _ rest.Connecter = &ProxyREST{}

// NewProxyREST returns the storage of edgedevices/proxy.
func NewProxyREST(c *Connector) *ProxyREST {
	r := &ProxyREST{c: c}
	r.transport = &http.Transport{
		DialContext: r.dial,
		// The name that a server on a loopback interface most likely knows.
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", MinVersion: tls.VersionTLS12}, //nolint:gosec // see the type's comment
		TLSHandshakeTimeout:    proxyHandshakeTimeout,
		DisableCompression:     true,
		MaxConnsPerHost:        maxProxyConnsPerPort,
		MaxIdleConnsPerHost:    maxProxyIdlePerPort,
		MaxIdleConns:           maxProxyIdle,
		IdleConnTimeout:        proxyIdleTimeout,
		MaxResponseHeaderBytes: maxProxyHeader,
	}
	r.upgrades = &http.Transport{DialContext: r.dialUpgrade, TLSClientConfig: r.transport.TLSClientConfig}
	return r
}

// New returns the empty options.
func (*ProxyREST) New() runtime.Object { return &aranya.EdgeDeviceProxyOptions{} }

// Destroy closes idle connections.
func (r *ProxyREST) Destroy() { r.transport.CloseIdleConnections() }

// ConnectMethods are the methods of the subresource.
func (*ProxyREST) ConnectMethods() []string { return proxyMethods }

// NewConnectOptions returns the type of the query parameters. The rest of the path is one of them.
func (*ProxyREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &aranya.EdgeDeviceProxyOptions{}, true, "path"
}

// Connect checks everything that can be known without the device.
func (r *ProxyREST) Connect(ctx context.Context, id string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	options, ok := opts.(*aranya.EdgeDeviceProxyOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	scheme, name, port, err := parseProxyID(id)
	if err != nil {
		return nil, err
	}
	device, err := r.c.device(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := allowed(device, "proxy", "allowPortForward", device.Spec.Host.AllowPortForward); err != nil {
		return nil, err
	}
	session, err := r.c.session(device)
	if err != nil {
		return nil, err
	}
	location := &url.URL{
		Scheme: scheme,
		Host:   proxyHost{uid: string(session.Device().UID), namespace: device.Namespace, name: device.Name}.address(port),
		Path:   utilnet.JoinPreservingTrailingSlash("/", options.Path), // without a path the handler would redirect
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.serve(w, req, location, responder)
	}), nil
}

func (r *ProxyREST) serve(w http.ResponseWriter, req *http.Request, location *url.URL, responder rest.Responder) {
	if httpstream.IsUpgradeRequest(req) {
		// An upgraded connection goes both ways, whatever its method.
		if err := r.c.authorizeCreate(req.Context()); err != nil {
			responder.Error(err)
			return
		}
		tw, tracked, done, err := r.c.Streaming.Track(w, req)
		if err != nil {
			responder.Error(err)
			return
		}
		defer done()
		w, req = tw, tracked
	}
	failure := &dialFailure{}
	req = req.WithContext(context.WithValue(req.Context(), dialFailureKey{}, failure))
	var transport http.RoundTripper = r.transport
	host := req.Header.Get(v1alpha1.ProxyHostHeader)
	if host != "" {
		req.Header = req.Header.Clone()
		req.Header.Del(v1alpha1.ProxyHostHeader)
		req.Host, transport = host, hideLocation{transport}
	}
	handler := proxy.NewUpgradeAwareHandler(location, transport, host == "", false, proxyResponder{responder, failure})
	// Whatever wraps the transport: if no dialer were found in it, the location would be dialled in aranya's own network.
	handler.UpgradeTransport = proxy.NewUpgradeRequestRoundTripper(r.upgrades, proxy.MirrorRequest)
	handler.ServeHTTP(w, req)
}

// hideLocation moves where an answer redirects to into a header that kube-apiserver lets pass.
type hideLocation struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (h hideLocation) RoundTrip(req *http.Request) (*http.Response, error) {
	response, err := h.RoundTripper.RoundTrip(req)
	if err == nil {
		if location := response.Header.Get("Location"); location != "" {
			response.Header.Del("Location")
			response.Header.Set(v1alpha1.ProxyLocationHeader, location)
		}
	}
	return response, err
}

// dial opens a stream to the device and port that the address of a location stands for.
func (r *ProxyREST) dial(ctx context.Context, _, address string) (net.Conn, error) {
	conn, err := r.dialDevice(ctx, address)
	if err != nil {
		if failure, ok := ctx.Value(dialFailureKey{}).(*dialFailure); ok {
			failure.set(err)
		}
	}
	return conn, err
}

// dialUpgrade opens a stream that ends with the request: a port that does not answer one would hold it for good.
func (r *ProxyREST) dialUpgrade(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := r.dial(ctx, network, address)
	if err == nil {
		context.AfterFunc(ctx, func() { _ = conn.Close() })
	}
	return conn, err
}

func (r *ProxyREST) dialDevice(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := parseProxyAddress(address)
	if err != nil {
		return nil, err
	}
	session, ok := r.c.Sessions.Session(host.namespace, host.name)
	if !ok || string(session.Device().UID) != host.uid {
		return nil, gateway.NewLastSeenError(host.namespace, host.name, r.c.LastSeen(host.namespace, host.name))
	}
	conn, err := target.Dialer(session, target.Address{})(ctx, port)
	if err != nil {
		return nil, err
	}
	return target.NetConn(conn, session), nil
}

// parseProxyID splits [scheme:]name[:port].
func parseProxyID(id string) (scheme, name string, port uint16, err error) {
	scheme, name, text, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return "", "", 0, apierrors.NewBadRequest(fmt.Sprintf("invalid EdgeDevice request %q: expected [scheme:]name[:port], with the scheme http or https", id))
	}
	if scheme == "" {
		scheme = "http"
	}
	switch {
	case text != "":
		number, err := netutils.ParsePort(text, false)
		if err != nil {
			return "", "", 0, apierrors.NewBadRequest(fmt.Sprintf("invalid port %q of EdgeDevice %q: must be a number from 1 to 65535", text, name))
		}
		port = uint16(number)
	case scheme == "https":
		port = 443
	default:
		port = 80
	}
	return scheme, name, port, nil
}

// proxyHost is what the host of a location stands for. The UID keeps connections apart that belong to
// devices of one name over time. Neither it nor a namespace holds a dot.
type proxyHost struct{ uid, namespace, name string }

func (h proxyHost) address(port uint16) string {
	return h.uid + "." + h.namespace + "." + h.name + ":" + strconv.Itoa(int(port))
}

func parseProxyAddress(address string) (proxyHost, uint16, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return proxyHost{}, 0, err
	}
	port, err := netutils.ParsePort(text, true)
	if err != nil {
		return proxyHost{}, 0, err
	}
	parts := strings.SplitN(host, ".", 3)
	if len(parts) != 3 {
		return proxyHost{}, 0, fmt.Errorf("%q is not the address of a device", host)
	}
	return proxyHost{uid: parts[0], namespace: parts[1], name: parts[2]}, uint16(port), nil
}

// dialFailure remembers why a connection could not be opened: the proxy's own errors only quote it.
type dialFailure struct {
	mu  sync.Mutex
	err error
}

type dialFailureKey struct{}

func (f *dialFailure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *dialFailure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// proxyResponder answers with the device's own refusal, or why the request has ended, where there is one.
type proxyResponder struct {
	responder rest.Responder
	failure   *dialFailure
}

// Error implements proxy.ErrorResponder.
func (p proxyResponder) Error(_ http.ResponseWriter, req *http.Request, err error) {
	cause := context.Cause(req.Context())
	var status *apierrors.StatusError
	switch {
	case errors.As(cause, &status), errors.As(p.failure.get(), &status), errors.As(err, &status):
		err = status
	case cause != nil:
		err = apierrors.NewServiceUnavailable(cause.Error())
	default:
		err = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach the device's port: %v", err))
	}
	p.responder.Error(err)
}

// Package leaseclient updates Leases for a fraction of what the typed client takes: with thousands of Nodes, to renew
// their Leases is most of what a process at rest does. No request takes long, and none after it goes over a connection
// that leads nowhere. When to renew which Lease is not its business.
package leaseclient

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/metrics"
)

// requestTimeout is how long a request may take: even for a Lease whose renewal came late, there is time for another
// try before controller-manager sets the Node to Unknown.
const requestTimeout = 10 * time.Second

// maxAnswer is how much of an answer is read: as much as an API server stores.
const maxAnswer = 3 << 20

// Client reads and writes Leases over a connection of its own. It may be used concurrently.
type Client struct {
	transport http.RoundTripper
	host      *url.URL
	header    http.Header // of all requests; no RoundTripper changes it
	timeout   time.Duration
	typed     coordinationclient.LeasesGetter
}

var _ coordinationclient.LeasesGetter = &Client{}

var (
	codec   = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	kind    = metav1.TypeMeta{APIVersion: coordinationv1.SchemeGroupVersion.String(), Kind: "Lease"}
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

// New returns a client of the API server that config leads to, without a limit of its own. A request ends after
// config.Timeout, or requestTimeout if that is not set.
func New(config *rest.Config) (*Client, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	if config.Timeout <= 0 {
		config.Timeout = requestTimeout
	}
	open := &connections{open: map[*gatheringConn]struct{}{}}
	config.Dial = open.dial(config.Dial)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &hangUp{next, open, config.Timeout / 2} })
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	typed, err := coordinationclient.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, err
	}
	host, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	host.Path = strings.TrimRight(host.Path, "/") // as many kubeconfigs have it
	header := http.Header{"Accept": {config.AcceptContentTypes}, "Content-Type": {config.ContentType}}
	if config.UserAgent != "" {
		header.Set("User-Agent", config.UserAgent)
	}
	return &Client{transport: client.Transport, host: host, header: header, timeout: config.Timeout, typed: typed}, nil
}

// Leases implements coordinationclient.LeasesGetter. Of what it returns, Update may change the lease that it is given,
// and knows no options.
func (c *Client) Leases(namespace string) coordinationclient.LeaseInterface {
	return leases{c.typed.Leases(namespace), c}
}

type leases struct {
	coordinationclient.LeaseInterface
	client *Client
}

// Update implements coordinationclient.LeaseInterface.
func (l leases) Update(ctx context.Context, lease *coordinationv1.Lease, _ metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	return l.client.Update(ctx, lease)
}

// Update is the typed client's, but may change the lease that it is given. If the API server says when to come
// again, it waits and leaves the rest to the typed client, which does that some times more. All that is one request
// to the timeout.
func (c *Client) Update(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	updated, wait, err := c.put(ctx, lease)
	if wait == 0 {
		return updated, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("%w, not waiting for another try after %s: %w", err, wait, ctx.Err())
	case <-timer.C:
		return c.typed.Leases(lease.Namespace).Update(ctx, lease, metav1.UpdateOptions{})
	}
}

// put sends one request. If it is to be sent again after a time, wait is that.
func (c *Client) put(ctx context.Context, lease *coordinationv1.Lease) (updated *coordinationv1.Lease, wait time.Duration, err error) {
	lease.TypeMeta = kind
	var body bytes.Buffer // of this request alone: a transport may still read it when it has an answer
	if err := codec.Encode(lease, &body); err != nil {
		return nil, 0, err
	}
	request := c.request(ctx, lease, body.Bytes())
	start := time.Now()
	response, err := c.transport.RoundTrip(request)
	c.measure(ctx, lease, start, response)
	if err != nil {
		return nil, 0, err
	}
	answer := buffers.Get().(*bytes.Buffer)
	answer.Reset()
	defer buffers.Put(answer)
	_, err = answer.ReadFrom(io.LimitReader(response.Body, maxAnswer))
	_ = response.Body.Close() // read to its end, or given up
	if err != nil {
		return nil, 0, fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, retryAfter(response), failure(response, answer.Bytes(), lease.Name)
	}
	updated = &coordinationv1.Lease{}
	if _, _, err := codec.Decode(answer.Bytes(), nil, updated); err != nil {
		return nil, 0, fmt.Errorf("decode the answer: %w", err)
	}
	return updated, 0, nil
}

func (c *Client) request(ctx context.Context, lease *coordinationv1.Lease, body []byte) *http.Request {
	request := &http.Request{
		Method: http.MethodPut, URL: c.url(lease.Namespace, lease.Name), Host: c.host.Host, Header: c.header,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}
	return request.WithContext(ctx)
}

func (c *Client) url(namespace, name string) *url.URL {
	u := *c.host
	u.Path += "/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/leases/" + name
	return &u
}

// measure counts a request in the metrics of client-go.
func (c *Client) measure(ctx context.Context, lease *coordinationv1.Lease, start time.Time, response *http.Response) {
	code := "<error>"
	if response != nil {
		code = strconv.Itoa(response.StatusCode)
	}
	metrics.RequestResult.Increment(ctx, code, http.MethodPut, c.host.Host)
	metrics.RequestLatency.Observe(ctx, http.MethodPut, *c.url(lease.Namespace, "{name}"), time.Since(start))
}

// retryAfter says how long to wait until the request is sent again, 0 for never, as client-go does.
func retryAfter(response *http.Response) time.Duration {
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode < http.StatusInternalServerError {
		return 0
	}
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || seconds <= 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// failure is the error that an answer other than OK tells.
func failure(response *http.Response, answer []byte, name string) error {
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(answer, nil, nil)
	if status, ok := object.(*metav1.Status); err == nil && ok && status.Status == metav1.StatusFailure {
		return apierrors.FromObject(status)
	}
	return apierrors.NewGenericServerResponse(response.StatusCode, http.MethodPut, coordinationv1.Resource("leases"), name, string(answer[:min(len(answer), 1<<10)]), 0, true)
}

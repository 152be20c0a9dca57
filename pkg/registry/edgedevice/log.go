package edgedevice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
)

// LogREST is the subresource edgedevices/log: the agent's log, a file or journal unit of the host, or
// the log of a container.
type LogREST struct{ c *Connector }

var (
	_ rest.GetterWithOptions = &LogREST{}
	_ rest.StorageMetadata   = &LogREST{}
)

// NewLogREST returns the storage of edgedevices/log.
func NewLogREST(c *Connector) *LogREST { return &LogREST{c: c} }

// New returns what discovery names as the kind of the subresource.
func (*LogREST) New() runtime.Object { return &aranya.EdgeDevice{} }

// Destroy does nothing: what the subresources share is not theirs.
func (*LogREST) Destroy() {}

// NewGetOptions returns the type of the query parameters.
func (*LogREST) NewGetOptions() (runtime.Object, bool, string) {
	return &aranya.EdgeDeviceLogOptions{}, false, ""
}

// ProducesMIMETypes tells OpenAPI what comes back.
func (*LogREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject tells OpenAPI what comes back.
func (*LogREST) ProducesObject(string) any { return "" }

// OverrideMetricsVerb counts following a log as the long-running request it is.
func (*LogREST) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

// Get returns a rest.ResourceStreamer of the log.
func (r *LogREST) Get(ctx context.Context, name string, opts runtime.Object) (runtime.Object, error) {
	options, ok := opts.(*aranya.EdgeDeviceLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	if errs := validation.ValidateLogOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(aranya.Kind("EdgeDeviceLogOptions"), name, errs)
	}
	device, err := r.c.device(ctx, name)
	if err != nil {
		return nil, err
	}
	request := (&target.LogOptions{
		Follow: options.Follow, Previous: options.Previous, Timestamps: options.Timestamps,
		SinceSeconds: options.SinceSeconds, SinceTime: options.SinceTime,
		TailLines: options.TailLines, LimitBytes: options.LimitBytes,
	}).Request(time.Now())
	var container *target.Container
	if options.Pod == "" {
		err = allowed(device, "log", "allowLog", device.Spec.Host.AllowLog)
		switch {
		case options.Path != "":
			request.Source = &edgeapi.Log_Path{Path: options.Path}
		case options.Unit != "":
			request.Source = &edgeapi.Log_Unit{Unit: options.Unit}
		default:
			request.Source = &edgeapi.Log_Agent{Agent: true}
		}
	} else {
		container, err = r.c.container(ctx, device, podAccess{name: options.Pod, verb: "get", subresource: "log"}, options.Container)
	}
	if err != nil {
		return nil, err
	}
	session, err := r.c.session(device)
	if err != nil {
		return nil, err
	}
	return &logStreamer{session: session, request: request, container: container}, nil
}

// logStreamer opens the log when the response is about to be written.
type logStreamer struct {
	session gateway.Session
	request *edgeapi.Log
	// container whose log it is; nil for the host's.
	container *target.Container
}

var _ rest.ResourceStreamer = &logStreamer{}

// GetObjectKind implements runtime.Object: the streamer has none.
func (*logStreamer) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. Nothing copies a stream.
func (s *logStreamer) DeepCopyObject() runtime.Object { return s }

// InputStream implements rest.ResourceStreamer. ctx is that of the request: the stream ends with it.
func (s *logStreamer) InputStream(ctx context.Context, _, _ string) (io.ReadCloser, bool, string, error) {
	r, err := target.Log(ctx, s.session, s.container, s.request)
	if err != nil {
		return nil, false, "", err
	}
	return &logReader{r}, s.request.GetFollow(), "text/plain", nil
}

// logReader has the response to a log that could not be read to its end be aborted. The generic server drops the
// error: to the client, the log would be complete.
type logReader struct{ io.ReadCloser }

// WriteTo implements io.WriterTo, which the handler of the request calls, for which alone panicking is safe. To a
// WebSocket, the server reads.
func (r *logReader) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, r.ReadCloser)
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

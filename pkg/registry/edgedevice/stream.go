package edgedevice

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

// StreamREST is a subresource that upgrades its requests: exec, attach or portforward. O is the type
// of its query parameters.
type StreamREST[O any, P options[O]] struct {
	c *Connector
	// kind of O.
	kind     string
	validate func(P) field.ErrorList
	// handler checks the rest of what can be known without the device: the rights of the host or the
	// pod that the options name. What it returns is called for requests to devices that are online.
	handler func(ctx context.Context, device *aranya.EdgeDevice, options P) (streamHandler, error)
}

type options[O any] interface {
	*O
	runtime.Object
}

// streamHandler upgrades a request that has passed all checks, and returns what serves the session. Errors
// before the upgrade are API statuses, reported through the responder; then it returns nil.
type streamHandler func(w http.ResponseWriter, r *http.Request, session gateway.Session, responder rest.Responder) (serve func())

var (
	_ rest.Connecter = &StreamREST[aranya.EdgeDeviceExecOptions, *aranya.EdgeDeviceExecOptions]{}
	_ rest.Storage   = &StreamREST[aranya.EdgeDeviceExecOptions, *aranya.EdgeDeviceExecOptions]{}
)

// New returns the empty options.
func (*StreamREST[O, P]) New() runtime.Object { return P(new(O)) }

// Destroy does nothing: what the subresources share is not theirs.
func (*StreamREST[O, P]) Destroy() {}

// ConnectMethods are the methods of the subresource: SPDY clients use POST, WebSocket clients can
// only use GET.
func (*StreamREST[O, P]) ConnectMethods() []string { return []string{"GET", "POST"} }

// NewConnectOptions returns the type of the query parameters.
func (*StreamREST[O, P]) NewConnectOptions() (runtime.Object, bool, string) {
	return P(new(O)), false, ""
}

// Connect checks everything that can be known without the device.
func (r *StreamREST[O, P]) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := r.c.authorizeCreate(ctx); err != nil {
		return nil, err
	}
	options, ok := opts.(P)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	if errs := r.validate(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(aranya.Kind(r.kind), name, errs)
	}
	device, err := r.c.device(ctx, name)
	if err != nil {
		return nil, err
	}
	handler, err := r.handler(ctx, device, options)
	if err != nil {
		return nil, err
	}
	session, err := r.c.session(device)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if serve := handler(w, req, session, responder); serve != nil {
			serveLast(req, serve)
		}
	}), nil
}

// startCommand starts an exec or attach on the device.
type startCommand func(ctx context.Context, session gateway.Session, o streaming.Options) (*target.Command, error)

// serveCommand starts the command before it upgrades the request, so that what the device refuses is
// answered with an API status; and it starts nothing for a request that cannot be upgraded.
func (c *Connector) serveCommand(o streaming.Options, start startCommand) streamHandler {
	return func(w http.ResponseWriter, r *http.Request, session gateway.Session, responder rest.Responder) func() {
		if err := c.Streaming.CheckCommand(r, o); err != nil {
			responder.Error(err)
			return nil
		}
		command, err := start(r.Context(), session, o)
		if err != nil {
			responder.Error(err)
			return nil
		}
		serve := c.Streaming.UpgradeCommand(w, r, o, command.Run)
		if serve == nil {
			command.Close()
			return nil
		}
		return func() {
			defer command.Close() // a client may leave before Run is called
			serve()
		}
	}
}

// hostOrContainer returns the container that is meant, or nil for the device's host, if the caller may
// run a command there. The subresource of pods has the same name as that of devices.
func (c *Connector) hostOrContainer(ctx context.Context, device *aranya.EdgeDevice, subresource, switchName string, allow *bool, pod, container string) (*target.Container, error) {
	if pod == "" {
		return nil, allowed(device, subresource, switchName, allow)
	}
	return c.container(ctx, device, podAccess{name: pod, verb: "create", subresource: subresource}, container)
}

package edgedevice

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

// AttachREST is the subresource edgedevices/attach: a login shell of the device's host, or a running
// container of a pod on it.
type AttachREST struct{ c *Connector }

var _ rest.Connecter = &AttachREST{}

// NewAttachREST returns the storage of edgedevices/attach.
func NewAttachREST(c *Connector) *AttachREST { return &AttachREST{c: c} }

// New returns the empty options.
func (*AttachREST) New() runtime.Object { return &aranya.EdgeDeviceAttachOptions{} }

// Destroy does nothing: what the subresources share is not theirs.
func (*AttachREST) Destroy() {}

// ConnectMethods are the methods of the subresource.
func (*AttachREST) ConnectMethods() []string { return connectMethods }

// NewConnectOptions returns the type of the query parameters.
func (*AttachREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &aranya.EdgeDeviceAttachOptions{}, false, ""
}

// Connect checks everything that can be known without the device.
func (r *AttachREST) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := r.c.authorizeCreate(ctx); err != nil {
		return nil, err
	}
	options, ok := opts.(*aranya.EdgeDeviceAttachOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	if errs := validation.ValidateAttachOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(aranya.Kind("EdgeDeviceAttachOptions"), name, errs)
	}
	device, err := r.c.device(ctx, name)
	if err != nil {
		return nil, err
	}
	var ref *edgeapi.ContainerRef
	if options.Pod == "" {
		err = allowed(device, "attach", "allowAttach", device.Spec.Host.AllowAttach)
	} else {
		ref, err = r.c.container(ctx, device, podAccess{name: options.Pod, verb: "create", subresource: "attach"}, options.Container)
	}
	if err != nil {
		return nil, err
	}
	session, err := r.c.session(device)
	if err != nil {
		return nil, err
	}
	return &commandHandler{
		server:    r.c.Streaming,
		responder: responder,
		options:   streaming.Options{Stdin: options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr, TTY: options.TTY},
		session:   session,
		start: func(ctx context.Context, session gateway.Session, o streaming.Options) (*target.Command, error) {
			return target.Attach(ctx, session, ref, o)
		},
	}, nil
}

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

// ExecREST is the subresource edgedevices/exec: a command on the device's host, or in a container of
// a pod on it.
type ExecREST struct{ c *Connector }

var _ rest.Connecter = &ExecREST{}

// NewExecREST returns the storage of edgedevices/exec.
func NewExecREST(c *Connector) *ExecREST { return &ExecREST{c: c} }

// New returns the empty options.
func (*ExecREST) New() runtime.Object { return &aranya.EdgeDeviceExecOptions{} }

// Destroy does nothing: what the subresources share is not theirs.
func (*ExecREST) Destroy() {}

// ConnectMethods are the methods of the subresource.
func (*ExecREST) ConnectMethods() []string { return connectMethods }

// NewConnectOptions returns the type of the query parameters.
func (*ExecREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &aranya.EdgeDeviceExecOptions{}, false, ""
}

// Connect checks everything that can be known without the device.
func (r *ExecREST) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := r.c.authorizeCreate(ctx); err != nil {
		return nil, err
	}
	options, ok := opts.(*aranya.EdgeDeviceExecOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	if errs := validation.ValidateExecOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(aranya.Kind("EdgeDeviceExecOptions"), name, errs)
	}
	device, err := r.c.device(ctx, name)
	if err != nil {
		return nil, err
	}
	var ref *edgeapi.ContainerRef
	if options.Pod == "" {
		err = allowed(device, "exec", "allowExec", device.Spec.Host.AllowExec)
	} else {
		ref, err = r.c.container(ctx, device, podAccess{name: options.Pod, verb: "create", subresource: "exec"}, options.Container)
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
			return target.Exec(ctx, session, ref, options.Command, o)
		},
	}, nil
}

// commandHandler serves an exec or attach that has passed all checks.
type commandHandler struct {
	server    *streaming.Server
	responder rest.Responder
	options   streaming.Options
	session   gateway.Session
	start     func(context.Context, gateway.Session, streaming.Options) (*target.Command, error)
}

// ServeHTTP starts the command before it upgrades the request, so that what the device refuses is
// answered with an API status; and it starts nothing for a request that cannot be upgraded.
func (h *commandHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.server.CheckCommand(r, h.options); err != nil {
		h.responder.Error(err)
		return
	}
	command, err := h.start(r.Context(), h.session, h.options)
	if err != nil {
		h.responder.Error(err)
		return
	}
	defer command.Close()
	h.server.ServeCommand(w, r, h.options, command.Run)
}

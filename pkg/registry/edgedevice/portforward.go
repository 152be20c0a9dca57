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
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

// PortForwardREST is the subresource edgedevices/portforward: ports of the device's loopback, of a
// pod on it, or of a host on its network.
type PortForwardREST struct{ c *Connector }

var _ rest.Connecter = &PortForwardREST{}

// NewPortForwardREST returns the storage of edgedevices/portforward.
func NewPortForwardREST(c *Connector) *PortForwardREST { return &PortForwardREST{c: c} }

// New returns the empty options.
func (*PortForwardREST) New() runtime.Object { return &aranya.EdgeDevicePortForwardOptions{} }

// Destroy does nothing: what the subresources share is not theirs.
func (*PortForwardREST) Destroy() {}

// ConnectMethods are the methods of the subresource.
func (*PortForwardREST) ConnectMethods() []string { return connectMethods }

// NewConnectOptions returns the type of the query parameters.
func (*PortForwardREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &aranya.EdgeDevicePortForwardOptions{}, false, ""
}

// Connect checks everything that can be known without the device. Connections are opened as the
// client asks for them, each with an error stream of its own.
func (r *PortForwardREST) Connect(ctx context.Context, name string, opts runtime.Object, responder rest.Responder) (http.Handler, error) {
	if err := r.c.authorizeCreate(ctx); err != nil {
		return nil, err
	}
	options, ok := opts.(*aranya.EdgeDevicePortForwardOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", opts)
	}
	if errs := validation.ValidatePortForwardOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(aranya.Kind("EdgeDevicePortForwardOptions"), name, errs)
	}
	device, err := r.c.device(ctx, name)
	if err != nil {
		return nil, err
	}
	address := target.Address{Host: options.Host}
	label := device.Namespace + "/" + device.Name
	if options.Pod == "" {
		if err := allowed(device, "portforward", "allowPortForward", device.Spec.Host.AllowPortForward); err != nil {
			return nil, err
		}
	} else {
		pod, err := r.c.pod(ctx, device, podAccess{name: options.Pod, verb: "create", subresource: "portforward"})
		if err != nil {
			return nil, err
		}
		address.PodUID, label = string(pod.UID), pod.Namespace+"/"+pod.Name
	}
	session, err := r.c.session(device)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := r.c.Streaming.CheckPortForward(req, options.Ports); err != nil {
			responder.Error(err)
			return
		}
		r.c.Streaming.ServePortForward(w, req, streaming.PortForwardOptions{Name: label, Ports: options.Ports}, target.Dialer(session, address))
	}), nil
}

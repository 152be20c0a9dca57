package edgedevice

import (
	"context"
	"net/http"

	"k8s.io/apiserver/pkg/registry/rest"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

// NewPortForwardREST returns the subresource edgedevices/portforward: ports of the device's loopback,
// of a pod on it, or of a host on its network.
func NewPortForwardREST(c *Connector) *StreamREST[aranya.EdgeDevicePortForwardOptions, *aranya.EdgeDevicePortForwardOptions] {
	return &StreamREST[aranya.EdgeDevicePortForwardOptions, *aranya.EdgeDevicePortForwardOptions]{
		c: c, kind: "EdgeDevicePortForwardOptions", validate: validation.ValidatePortForwardOptions, handler: c.portForward,
	}
}

// portForward opens connections as the client asks for them, each with an error stream of its own.
func (c *Connector) portForward(ctx context.Context, device *aranya.EdgeDevice, o *aranya.EdgeDevicePortForwardOptions) (streamHandler, error) {
	address := target.Address{Host: o.Host}
	label := "EdgeDevice " + device.Namespace + "/" + device.Name
	if o.Pod == "" {
		if err := allowed(device, "portforward", "allowPortForward", device.Spec.Host.AllowPortForward); err != nil {
			return nil, err
		}
	} else {
		pod, err := c.pod(ctx, device, podAccess{name: o.Pod, verb: "create", subresource: "portforward"})
		if err != nil {
			return nil, err
		}
		address.Pod, label = pod, "pod "+pod.Namespace+"/"+pod.Name
	}
	return func(w http.ResponseWriter, r *http.Request, session gateway.Session, responder rest.Responder) func() {
		if err := c.Streaming.CheckPortForward(r, o.Ports); err != nil {
			responder.Error(err)
			return nil
		}
		return c.Streaming.UpgradePortForward(w, r, streaming.PortForwardOptions{Name: label, Ports: o.Ports}, target.Dialer(session, address))
	}, nil
}

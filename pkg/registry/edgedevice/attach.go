package edgedevice

import (
	"context"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

// NewAttachREST returns the subresource edgedevices/attach: a login shell of the device's host, or a
// running container of a pod on it.
func NewAttachREST(c *Connector) *StreamREST[aranya.EdgeDeviceAttachOptions, *aranya.EdgeDeviceAttachOptions] {
	return &StreamREST[aranya.EdgeDeviceAttachOptions, *aranya.EdgeDeviceAttachOptions]{
		c: c, kind: "EdgeDeviceAttachOptions", validate: validation.ValidateAttachOptions, handler: c.attach,
	}
}

func (c *Connector) attach(ctx context.Context, device *aranya.EdgeDevice, o *aranya.EdgeDeviceAttachOptions) (streamHandler, error) {
	ref, err := c.hostOrContainer(ctx, device, "attach", "allowAttach", device.Spec.Host.AllowAttach, o.Pod, o.Container)
	if err != nil {
		return nil, err
	}
	streams := streaming.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, TTY: o.TTY}
	return c.serveCommand(streams, func(ctx context.Context, session gateway.Session, streams streaming.Options) (*target.Command, error) {
		return target.Attach(ctx, session, ref, streams)
	}), nil
}

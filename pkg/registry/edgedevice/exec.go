package edgedevice

import (
	"context"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

// NewExecREST returns the subresource edgedevices/exec: a command on the device's host, or in a
// container of a pod on it.
func NewExecREST(c *Connector) *StreamREST[aranya.EdgeDeviceExecOptions, *aranya.EdgeDeviceExecOptions] {
	return &StreamREST[aranya.EdgeDeviceExecOptions, *aranya.EdgeDeviceExecOptions]{
		c: c, kind: "EdgeDeviceExecOptions", validate: validation.ValidateExecOptions, handler: c.exec,
	}
}

func (c *Connector) exec(ctx context.Context, device *aranya.EdgeDevice, o *aranya.EdgeDeviceExecOptions) (streamHandler, error) {
	ref, err := c.hostOrContainer(ctx, device, "exec", "allowExec", device.Spec.Host.AllowExec, o.Pod, o.Container)
	if err != nil {
		return nil, err
	}
	streams := streaming.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, TTY: o.TTY}
	return c.serveCommand(streams, func(ctx context.Context, session gateway.Session, streams streaming.Options) (*target.Command, error) {
		return target.Exec(ctx, session, ref, o.Command, streams)
	}), nil
}

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrElsewhere is what a Permit fails with if the device has but to connect again, at once and in the same way:
// what took its connection is being replaced.
var ErrElsewhere = errors.New("connect again")

// Permit says whether a device may use a connection, given its remote address. It is asked when the
// device connects or enrols, and again whenever its EdgeDevice changes, so it must be quick. The error
// is told to the person at the device, which tries its next link if it has several. It may be called concurrently.
type Permit func(device Device, remote net.Addr) error

// Serve takes the connections of devices from one more listener, which it closes, until ctx ends, the
// listener fails, or the gateway has stopped, which is ErrStopping. It waits for Run to be called. Sessions
// over the listener's connections do not end with it. A nil permit lets any device use any connection.
func (g *Gateway) Serve(ctx context.Context, l net.Listener, permit Permit) error {
	select {
	case <-g.running:
	case <-ctx.Done():
		_ = l.Close()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	err := g.server.Serve(&deviceListener{Listener: l, gateway: g, permit: permit})
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil, errors.Is(err, grpc.ErrServerStopped):
		return g.stopping()
	}
	return fmt.Errorf("serving devices on %s: %w", l.Addr(), err)
}

// permits asks the listener's owner whether a device may use the connection.
func (c *deviceConn) permits(device Device) error {
	if c.permit == nil {
		return nil
	}
	err := c.permit(device, c.RemoteAddr())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrElsewhere):
		return status.Error(codes.Unavailable, err.Error())
	}
	refused.WithLabelValues(refusedLink).Inc()
	// The device is welcome, which has been decided before, but not here.
	return status.Error(codes.NotFound, err.Error())
}

package gateway

import (
	"context"
	"errors"
	"time"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// Gateway serves the device link.
type Gateway struct {
	Config
}

var _ Sessions = &Gateway{}
var errSkeleton = errors.New("skeleton")

// New returns a gateway that serves once Run is called.
func New(c Config) (*Gateway, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	return &Gateway{Config: c}, nil
}

// Run serves devices until ctx ends, then ends all sessions, which are told why, and returns when
// everything is down. It may be called once.
func (g *Gateway) Run(ctx context.Context) error { return errSkeleton }

// IssueToken makes an enrolment token for a device.
func (g *Gateway) IssueToken(ctx context.Context, device Device, ttl time.Duration) (token string, expires time.Time, err error) {
	return "", time.Time{}, errSkeleton
}

// Session implements Sessions.
func (g *Gateway) Session(namespace, name string) (Session, bool) { return nil, false }

// Sessions implements Sessions.
func (g *Gateway) Sessions() []Session { return nil }

// Disconnect ends the live link of a device, if this replica has it. The device is told the reason.
func (g *Gateway) Disconnect(device Device, reason error) {}

// DeviceChanged is to be called (by an informer's handler) when an EdgeDevice was added, updated or
// deleted: it cuts the live link of a device that was deleted, replaced or re-keyed, and takes over
// a new heartbeat interval. A nil-safe, cheap call.
func (g *Gateway) DeviceChanged(device *v1alpha1.EdgeDevice, deleted bool) {}

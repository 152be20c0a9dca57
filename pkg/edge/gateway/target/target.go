// Package target turns what a user wants of a device (a command, a log, a connection, statistics)
// into streams of the device's session. It is the part that the subresources of EdgeDevice and the
// kubelet endpoint share: it knows nothing of HTTP upgrades, nor of who may do what.
//
// Everything opens before it returns: what the device refuses is an API status, which the caller can
// still answer with.
package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/stream"
)

// openTimeout is how long a device may take to begin what it is asked for.
const openTimeout = 30 * time.Second

// open opens a stream on the session. ctx bounds the opening only.
func open(ctx context.Context, session gateway.Session, req *edgeapi.OpenStream) (*stream.Stream, error) {
	ctx, cancel := withTimeout(ctx, session, openTimeout, "did not answer")
	defer cancel()
	s, err := session.OpenStream(ctx, req)
	if err == nil {
		return s, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return nil, err
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("EdgeDevice %s: %v", session.Device(), err))
}

// withTimeout bounds what a device is asked for. The cause is the API status for a device that takes longer. It does not
// ask to try again: client-go would do so ten times, while the user waits.
func withTimeout(ctx context.Context, session gateway.Session, timeout time.Duration, failed string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, timeout, apierrors.NewTimeoutError(fmt.Sprintf("EdgeDevice %s %s within %v", session.Device(), failed, timeout), 0))
}

// broken is the API status for a stream that ended without a result.
func broken(session gateway.Session, err error) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("EdgeDevice %s: the session was cut off: %v", session.Device(), err))
}

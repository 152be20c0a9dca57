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
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/stream"
)

// openTimeout is how long a device may take to begin what it is asked for.
const openTimeout = 30 * time.Second

// open opens a stream on the session. ctx bounds the opening only.
func open(ctx context.Context, session gateway.Session, req *edgeapi.OpenStream) (*stream.Stream, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, fmt.Errorf("the device did not answer within %v", openTimeout))
	defer cancel()
	s, err := session.OpenStream(ctx, req)
	if err == nil {
		return s, nil
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return nil, err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("edgedevice %s: %v", name(session), err))
}

func name(session gateway.Session) string {
	device := session.Device()
	return device.Namespace + "/" + device.Name
}

// resultError is the API status for the failure that a device reported, or nil.
func resultError(session gateway.Session, result *edgeapi.Result) error {
	if result.GetReason() == "" {
		return nil
	}
	reason := metav1.StatusReason(result.GetReason())
	code, ok := codes[reason]
	if !ok {
		reason, code = metav1.StatusReasonInternalError, http.StatusInternalServerError
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Reason:  reason,
		Code:    code,
		Message: fmt.Sprintf("edgedevice %s: %s", name(session), result.GetMessage()),
	}}
}

// codes are the reasons that a device may give.
var codes = map[metav1.StatusReason]int32{
	metav1.StatusReasonBadRequest:         http.StatusBadRequest,
	metav1.StatusReasonForbidden:          http.StatusForbidden,
	metav1.StatusReasonNotFound:           http.StatusNotFound,
	metav1.StatusReasonConflict:           http.StatusConflict,
	metav1.StatusReasonInvalid:            http.StatusUnprocessableEntity,
	metav1.StatusReasonTooManyRequests:    http.StatusTooManyRequests,
	metav1.StatusReasonInternalError:      http.StatusInternalServerError,
	metav1.StatusReasonServiceUnavailable: http.StatusServiceUnavailable,
	metav1.StatusReasonTimeout:            http.StatusGatewayTimeout,
}

// broken is the API status for a stream that ended without a result.
func broken(session gateway.Session, err error) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("edgedevice %s: the stream broke: %v", name(session), err))
}

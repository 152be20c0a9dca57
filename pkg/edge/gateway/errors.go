package gateway

import (
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// NewOfflineError is the API status for a device that has no live link.
func NewOfflineError(device Device) *apierrors.StatusError {
	return apierrors.NewServiceUnavailable(fmt.Sprintf("EdgeDevice %s is not connected", device))
}

// NewLastSeenError is that for one that was last seen at a time, which is zero if it is not known.
func NewLastSeenError(namespace, name string, seen time.Time) *apierrors.StatusError {
	message := fmt.Sprintf("EdgeDevice %s/%s is offline", namespace, name)
	if !seen.IsZero() {
		message += ", it was last seen at " + seen.UTC().Format(time.RFC3339)
	}
	return apierrors.NewServiceUnavailable(message)
}

// statusCodes are the HTTP codes of the reasons that a device may give.
var statusCodes = map[string]int32{
	"BadRequest": http.StatusBadRequest, "Unauthorized": http.StatusUnauthorized, "Forbidden": http.StatusForbidden,
	"NotFound": http.StatusNotFound, "MethodNotAllowed": http.StatusMethodNotAllowed, "NotAcceptable": http.StatusNotAcceptable,
	"AlreadyExists": http.StatusConflict, "Conflict": http.StatusConflict, "Gone": http.StatusGone, "Expired": http.StatusGone,
	"Invalid": http.StatusUnprocessableEntity, "TooManyRequests": http.StatusTooManyRequests,
	"RequestEntityTooLarge": http.StatusRequestEntityTooLarge, "InternalError": http.StatusInternalServerError,
	"ServiceUnavailable": http.StatusServiceUnavailable, "Timeout": http.StatusGatewayTimeout, "ServerTimeout": http.StatusInternalServerError,
}

// resultError is the API status for a session that the device refused or could not begin.
func resultError(device Device, result *edgeapi.Result) *apierrors.StatusError {
	reason := result.GetReason()
	code, ok := statusCodes[reason]
	if !ok {
		reason, code = string(metav1.StatusReasonInternalError), http.StatusInternalServerError
	}
	message := result.GetMessage()
	if message == "" {
		message = "the device gave no message"
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    code,
		Reason:  metav1.StatusReason(reason),
		Message: fmt.Sprintf("EdgeDevice %s: %s", device, message),
		Details: &metav1.StatusDetails{Group: v1alpha1.GroupName, Kind: "edgedevices", Name: device.Name},
	}}
}

// ResultError is the API status for the failure that a device reported as the result of a stream; nil
// if it reported none. What the exit code of a command means is up to the caller.
func ResultError(device Device, result *edgeapi.Result) error {
	if result.GetReason() == "" {
		return nil
	}
	return resultError(device, result)
}

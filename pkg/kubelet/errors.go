package kubelet

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// forbidden and notFound are statuses with nothing but their message: the kubelet answers in text.
func forbidden(message string) error {
	return status(http.StatusForbidden, metav1.StatusReasonForbidden, message)
}

func notFound(message string) error {
	return status(http.StatusNotFound, metav1.StatusReasonNotFound, message)
}

func status(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

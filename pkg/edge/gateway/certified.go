package gateway

import (
	"errors"
	"fmt"
	"time"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

var (
	// ErrTokenUsed says that a device has enrolled since the token was issued.
	ErrTokenUsed = errors.New("the enrolment token is used up")
	// ErrReplaced says that an EdgeDevice is not, or not any more, one that may have a certificate.
	ErrReplaced = errors.New("the certificate is not wanted any more")
)

// Certified returns what status.certificate of an EdgeDevice is to be once a certificate was signed for a
// device. token is when the token of its enrolment was issued, zero for a renewal. The error is
// ErrTokenUsed, or wraps ErrReplaced.
//
// An enrolment uses up all tokens issued before it, by EnrolledAt. Only to the key that is in force a used token
// is good again: the device may not have got the answer.
func Certified(ed *v1alpha1.EdgeDevice, device Device, next v1alpha1.CertificateStatus, token time.Time) (*v1alpha1.CertificateStatus, error) {
	current := ed.Status.Certificate
	sameKey := current != nil && current.PublicKeySHA256 == next.PublicKeySHA256
	renewal := token.IsZero()
	switch {
	case ed.UID != device.UID:
		return nil, fmt.Errorf("%w: there is another EdgeDevice of that name now", ErrReplaced)
	case ed.DeletionTimestamp != nil:
		return nil, fmt.Errorf("%w: the EdgeDevice is being deleted", ErrReplaced)
	case renewal && !sameKey:
		return nil, fmt.Errorf("%w: the one in force is for another key", ErrReplaced)
	case renewal || current != nil && current.EnrolledAt != nil && !token.After(current.EnrolledAt.Time):
		if !sameKey {
			return nil, ErrTokenUsed
		}
		next.EnrolledAt = current.EnrolledAt
	}
	return &next, nil
}

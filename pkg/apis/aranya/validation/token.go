package validation

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// The range of an enrolment token's spec.expirationSeconds.
const (
	minTokenSeconds = 60
	maxTokenSeconds = 7 * 24 * 60 * 60
)

// ValidateEnrollmentToken checks what was asked for. The metadata is not used and not checked.
func ValidateEnrollmentToken(token *aranya.EnrollmentToken) field.ErrorList {
	path := field.NewPath("spec", "expirationSeconds")
	seconds := token.Spec.ExpirationSeconds
	switch {
	case seconds == nil:
		return field.ErrorList{field.Required(path, "the number of seconds that the token is valid")}
	case *seconds < minTokenSeconds || *seconds > maxTokenSeconds:
		return field.ErrorList{field.Invalid(path, *seconds,
			fmt.Sprintf("must be from %d to %d (a week)", minTokenSeconds, maxTokenSeconds))}
	}
	return nil
}

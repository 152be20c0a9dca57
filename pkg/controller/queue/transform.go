package queue

import "k8s.io/apimachinery/pkg/api/meta"

// StripManagedFields is a transformer for informers: nobody here reads who manages which field, and
// it takes much of an object's memory.
func StripManagedFields(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}

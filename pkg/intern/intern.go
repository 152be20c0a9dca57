// Package intern lets what is the same on thousands of objects, strings above all, lie in memory once. What is
// worth it is known by those who hold the objects. Whoever uses it for more than strings must not modify the
// objects afterwards, but copies of them.
package intern

import (
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Strings replaces each string by the one copy of it. It costs the time of a lookup in a map.
func Strings[T ~string](texts ...*T) {
	for _, text := range texts {
		if *text != "" {
			*text = T(unique.Make(string(*text)).Value())
		}
	}
}

// Keys returns a map with the same content, with the keys replaced.
func Keys[K ~string, V any](m map[K]V) map[K]V {
	if m == nil {
		return nil
	}
	same := make(map[K]V, len(m))
	for key, value := range m {
		Strings(&key)
		same[key] = value
	}
	return same
}

// Conditions replaces the strings of conditions.
func Conditions(conditions []metav1.Condition) {
	for i := range conditions {
		c := &conditions[i]
		Strings(&c.Type, &c.Reason, &c.Message)
		Strings(&c.Status)
	}
}

// ManagedFields replaces the strings of who manages which fields, and lets the sets of fields lie in memory once.
func ManagedFields(entries []metav1.ManagedFieldsEntry) {
	for i := range entries {
		e := &entries[i]
		Strings(&e.Manager, &e.APIVersion, &e.FieldsType, &e.Subresource)
		Strings(&e.Operation)
		if e.FieldsV1 != nil {
			*e.FieldsV1 = fieldSets.same(e.FieldsV1.GetRawString(), *e.FieldsV1)
		}
	}
}

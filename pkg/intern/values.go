package intern

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/lru"
)

// remembered is how many values of a kind are known to be in memory. There is one for each model of device, and
// not many more; what is forgotten just lies in memory twice.
const remembered = 1024

var (
	resourceLists = values[corev1.ResourceList]{lru.New(remembered)}
	fieldSets     = values[metav1.FieldsV1]{lru.New(remembered)}
)

// values are those seen last, by a text that tells one from another.
type values[T any] struct{ known *lru.Cache }

// same returns the value that was first seen with this text.
func (v values[T]) same(text string, value T) T {
	if known, ok := v.known.Get(text); ok {
		return known.(T)
	}
	v.known.Add(text, value)
	return value
}

// Resources returns the one copy of a list of resources.
func Resources(list corev1.ResourceList) corev1.ResourceList {
	if len(list) == 0 {
		return list
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(list)) {
		quantity := list[name]
		text.WriteString(string(name) + "=" + quantity.String() + ",")
	}
	return resourceLists.same(text.String(), list)
}

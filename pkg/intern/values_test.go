package intern

import (
	"fmt"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	pointer := func(l corev1.ResourceList) uintptr { return reflect.ValueOf(l).Pointer() }

	first := Resources(list("4", "8Gi"))
	for _, tc := range []struct {
		list corev1.ResourceList
		same bool
	}{
		{list("4", "8Gi"), true},
		{list("4000m", "8192Mi"), true}, // written in another way
		{list("4", "8589934592"), false},
		{list("8", "8Gi"), false},
		{corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}, false},
		{corev1.ResourceList{}, false},
		{nil, false},
	} {
		got := Resources(tc.list)
		if !apiequality.Semantic.DeepEqual(got, tc.list) || (got == nil) != (tc.list == nil) {
			t.Errorf("got %v for %v", got, tc.list)
		}
		if same := pointer(got) == pointer(first); same != tc.same {
			t.Errorf("%v lies where %v does: %v, want %v", tc.list, first, same, tc.same)
		}
	}
}

// Who reports ever new resources does not fill the memory.
func TestResourcesAreForgotten(t *testing.T) {
	for i := range 2 * remembered {
		Resources(corev1.ResourceList{corev1.ResourceName(fmt.Sprint("example.com/", i)): resource.MustParse("1")})
	}
	if n := resourceLists.known.Len(); n != remembered {
		t.Errorf("%d lists are remembered, want %d", n, remembered)
	}
}

package eviction

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

// TestRankOfUnknownDisk has pods whose disk could not be measured in time: they count as large, but priority comes first.
func TestRankOfUnknownDisk(t *testing.T) {
	for _, resource := range []v1.ResourceName{v1.ResourceEphemeralStorage, resourceInodes} {
		d := newDevice()
		priority := func(n int32) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Priority = ptr.To(n) } }
		d.pod("small", 10)
		d.pod("important", 0, priority(100))
		d.pod("large", 1<<40)
		d.pod("slow", 0)
		d.pod("without figures", 0, priority(100))
		d.stats["important"] = &statsapi.PodStats{}
		d.stats["slow"] = &statsapi.PodStats{}
		delete(d.stats, "without figures")
		rank(d.pods, d.stats, resource)
		var order []string
		for _, pod := range d.pods {
			order = append(order, pod.Name)
		}
		if want := []string{"without figures", "slow", "large", "small", "important"}; !slices.Equal(order, want) {
			t.Errorf("%s: got %q, want %q", resource, order, want)
		}
	}
}

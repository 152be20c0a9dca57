package eviction

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func TestMessage(t *testing.T) {
	requests := func(memory string) v1.ResourceRequirements {
		return v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}}
	}
	memory := func(n uint64) *statsapi.MemoryStats { return &statsapi.MemoryStats{WorkingSetBytes: &n} }
	const low = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
	const container = "Container main was using 64Mi, request is 32Mi, has larger consumption of memory. "
	for _, tc := range []struct {
		name  string
		pod   v1.ResourceRequirements
		stats *statsapi.PodStats
		want  string
	}{
		{name: "nothing is known", want: low},
		{name: "a container", stats: &statsapi.PodStats{Memory: memory(66 << 20)}, want: low + container},
		{name: "the pod as a whole", pod: requests("48Mi"), stats: &statsapi.PodStats{Memory: memory(66 << 20)},
			want: low + "Pod web was using 66Mi, request is 48Mi, has larger consumption of memory. " + container},
		{name: "the pod as a whole has asked for enough", pod: requests("1Gi"), stats: &statsapi.PodStats{Memory: memory(66 << 20)}, want: low + container},
		{name: "use of the pod as a whole is not known", pod: requests("48Mi"), stats: &statsapi.PodStats{}, want: low + container},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1.PodSpec{Resources: &tc.pod, Containers: []v1.Container{{Name: "main", Resources: requests("32Mi")}}}}
		if tc.stats != nil {
			tc.stats.Containers = []statsapi.ContainerStats{{Name: "main", Memory: memory(64 << 20)}}
		}
		lack := threshold(MemoryAvailable, 100<<20)
		if got := message(pod, tc.stats, &lack, Observation{Available: 50 << 20, Capacity: 1 << 30}); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

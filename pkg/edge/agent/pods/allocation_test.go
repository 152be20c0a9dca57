package pods

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestLastAllocation(t *testing.T) {
	had, wanted := resources("100m", "200m", "32Mi"), resources("300m", "400m", "32Mi")
	pod := newPod("p", v1.Container{Name: "a", Resources: wanted}, v1.Container{Name: "b", Resources: wanted}, v1.Container{Name: "c", Resources: wanted})
	pod.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}}
	granted := lastAllocation(pod, &v1.PodStatus{
		Resources: &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}},
		ContainerStatuses: []v1.ContainerStatus{
			{Name: "a", ContainerID: "x://a", Resources: &had},
			{Name: "b", Resources: &had}, // never made
			{Name: "gone", ContainerID: "x://gone", Resources: &had},
		}})
	if !sameResources(granted.containers["a"], had) || !sameResources(granted.containers["b"], wanted) || !sameResources(granted.containers["c"], wanted) {
		t.Errorf("got %v", granted.containers)
	}
	if granted.equal(allocationOf(pod)) {
		t.Error("what was granted is what is wanted")
	}
	applied := granted.applyTo(pod)
	if !allocationOf(applied).equal(granted) || applied.Spec.Resources.Limits.Cpu().String() != "1" || !sameResources(pod.Spec.Containers[0].Resources, wanted) {
		t.Errorf("got %v; the desired pod is %v", applied.Spec.Containers, pod.Spec.Containers)
	}
	if same := lastAllocation(pod, &v1.PodStatus{}); same.applyTo(pod) != pod {
		t.Error("a pod with what it asks for was copied")
	}
}

func TestChangedResources(t *testing.T) {
	none, limit := v1.ResourceRequirements{}, func(cpu string) *v1.ResourceRequirements {
		return &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}
	}
	onlyCPU := map[v1.ResourceName]bool{v1.ResourceCPU: true}
	for name, tc := range map[string]struct {
		before, after inForce
		want          map[v1.ResourceName]bool
	}{
		"nothing":            {inForce{resources("1", "2", "1Gi"), nil}, inForce{resources("1000m", "2", "1024Mi"), limit("1")}, map[v1.ResourceName]bool{}},
		"request":            {inForce{resources("1", "2", "1Gi"), nil}, inForce{resources("2", "2", "1Gi"), nil}, onlyCPU},
		"limit removed":      {inForce{*limit("1"), nil}, inForce{none, nil}, onlyCPU},
		"both":               {inForce{resources("1", "2", "1Gi"), nil}, inForce{resources("1", "3", "2Gi"), nil}, map[v1.ResourceName]bool{v1.ResourceCPU: true, v1.ResourceMemory: true}},
		"of the pod":         {inForce{none, limit("1")}, inForce{none, limit("2")}, onlyCPU},
		"of the pod, hidden": {inForce{*limit("1"), limit("1")}, inForce{*limit("1"), limit("2")}, map[v1.ResourceName]bool{}},
	} {
		if diff := cmp.Diff(tc.want, changedResources(tc.before, tc.after)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

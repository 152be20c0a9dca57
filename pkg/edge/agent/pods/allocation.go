package pods

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
)

// allocation is what the containers of a pod may use. The one that the device has granted lags behind
// the spec while a resize waits for room; the one that is in force lags behind the granted one until
// the runtime has been told.
type allocation struct {
	pod        *v1.ResourceRequirements // of the pod as a whole; nil without
	containers map[string]v1.ResourceRequirements
}

// allocationOf returns what a pod's spec asks for.
func allocationOf(pod *v1.Pod) *allocation {
	a := &allocation{pod: pod.Spec.Resources, containers: map[string]v1.ResourceRequirements{}}
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			a.containers[containers[i].Name] = containers[i].Resources
		}
	}
	return a
}

// lastAllocation returns what a pod had been granted by its last status. What that does not tell is as
// in the spec.
func lastAllocation(pod *v1.Pod, last *v1.PodStatus) *allocation {
	a := allocationOf(pod)
	for _, statuses := range [][]v1.ContainerStatus{last.InitContainerStatuses, last.ContainerStatuses} {
		for i := range statuses {
			spec, ok := a.containers[statuses[i].Name]
			if granted := statuses[i].Resources; ok && granted != nil && statuses[i].ContainerID != "" {
				spec.Requests, spec.Limits = granted.Requests, granted.Limits
				a.containers[statuses[i].Name] = spec
			}
		}
	}
	if a.pod != nil && last.Resources != nil {
		spec := *a.pod
		spec.Requests, spec.Limits = last.Resources.Requests, last.Resources.Limits
		a.pod = &spec
	}
	return a
}

func (a *allocation) equal(b *allocation) bool {
	return sameResources(ptr.Deref(a.pod, v1.ResourceRequirements{}), ptr.Deref(b.pod, v1.ResourceRequirements{})) &&
		maps.EqualFunc(a.containers, b.containers, sameResources)
}

func sameResources(a, b v1.ResourceRequirements) bool {
	return equality.Semantic.DeepEqual(a.Requests, b.Requests) && equality.Semantic.DeepEqual(a.Limits, b.Limits)
}

// applyTo returns the pod with these resources in place of those of its spec.
func (a *allocation) applyTo(pod *v1.Pod) *v1.Pod {
	if a.equal(allocationOf(pod)) {
		return pod
	}
	changed := *pod
	changed.Spec.Resources = a.pod
	replace := func(containers []v1.Container) []v1.Container {
		out := make([]v1.Container, len(containers))
		for i, c := range containers {
			if r, ok := a.containers[c.Name]; ok {
				c.Resources = r
			}
			out[i] = c
		}
		return out
	}
	changed.Spec.InitContainers, changed.Spec.Containers = replace(pod.Spec.InitContainers), replace(pod.Spec.Containers)
	return &changed
}

// changedResources are those of which two allocations of a container, each with what its pod as a whole
// has, differ.
func changedResources(before, after inForce) map[v1.ResourceName]bool {
	changed := map[v1.ResourceName]bool{}
	compare := func(a, b v1.ResourceList) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			x, y := a[name], b[name]
			if x.Cmp(y) != 0 {
				changed[name] = true
			}
		}
	}
	compare(before.container.Requests, after.container.Requests)
	compare(before.container.Limits, after.container.Limits)
	// The limits of the pod are those of a container that has none of its own.
	podBefore, podAfter := ptr.Deref(before.pod, v1.ResourceRequirements{}).Limits, ptr.Deref(after.pod, v1.ResourceRequirements{}).Limits
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if _, own := after.container.Limits[name]; own {
			continue
		}
		x, y := podBefore[name], podAfter[name]
		if x.Cmp(y) != 0 {
			changed[name] = true
		}
	}
	return changed
}

package podutil

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOSClass computes the pod's quality of service class from its requests and limits of cpu and
// memory, or returns the one its status already has.
func QOSClass(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	requests, limits := map[v1.ResourceName]resource.Quantity{}, map[v1.ResourceName]resource.Quantity{}
	guaranteed := true
	add := func(r *v1.ResourceRequirements) {
		limited := 0
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			if q, ok := r.Requests[name]; ok && !q.IsZero() {
				sum := requests[name]
				sum.Add(q)
				requests[name] = sum
			}
			if q, ok := r.Limits[name]; ok && !q.IsZero() {
				limited++
				sum := limits[name]
				sum.Add(q)
				limits[name] = sum
			}
		}
		guaranteed = guaranteed && limited == 2
	}
	if pod.Spec.Resources != nil && (len(pod.Spec.Resources.Requests) > 0 || len(pod.Spec.Resources.Limits) > 0) {
		add(pod.Spec.Resources)
	} else {
		for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range containers {
				add(&containers[i].Resources)
			}
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return v1.PodQOSBestEffort
	}
	if guaranteed {
		for name, request := range requests {
			limit, ok := limits[name]
			guaranteed = guaranteed && ok && limit.Cmp(request) == 0
		}
	}
	if guaranteed && len(requests) == len(limits) {
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

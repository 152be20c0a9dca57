package eviction

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// message says in a pod's status why it had to go: what ran out, and whether it as a whole, and which of its
// containers, used more of that than they asked for.
func message(pod *v1.Pod, s *statsapi.PodStats, t *Threshold, o Observation) string {
	resource := kinds[t.Signal].resource
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %s. ", resource)
	fmt.Fprintf(&b, "Threshold quantity: %s, available: %s. ", quantity(resource, t.Value.Of(o.Capacity)), quantity(resource, o.Available))
	if s == nil {
		return b.String()
	}
	exceeds := func(kind, name string, use int64, requests v1.ResourceList) {
		if request := requests[resource]; use > request.Value() {
			fmt.Fprintf(&b, "%s %s was using %s, request is %s, has larger consumption of %s. ", kind, name, binary(use), request.String(), resource)
		}
	}
	if use, ok := usage(s, resource, allFiles); ok && resource == v1.ResourceMemory && resourcehelper.IsPodLevelRequestsSet(pod) {
		exceeds("Pod", pod.Name, use, pod.Spec.Resources.Requests)
	}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		i := slices.IndexFunc(s.Containers, func(cs statsapi.ContainerStats) bool { return cs.Name == c.Name })
		if i < 0 {
			continue
		}
		var use int64
		switch cs := &s.Containers[i]; {
		case resource == v1.ResourceMemory && cs.Memory != nil && cs.Memory.WorkingSetBytes != nil:
			use = int64(*cs.Memory.WorkingSetBytes)
		case resource == v1.ResourceEphemeralStorage:
			use = used(cs.Rootfs) + used(cs.Logs)
		}
		exceeds("Container", c.Name, use, c.Resources.Requests)
	}
	return b.String()
}

// quantity is rounded down to what a person reads, as the kubelet's is.
func quantity(resource v1.ResourceName, n uint64) string {
	if resource == v1.ResourceMemory || resource == v1.ResourceEphemeralStorage {
		return binary(int64(n) >> 10 << 10).String()
	}
	return fmt.Sprint(n)
}

package criconfig

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/qos"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// PodLimits are the limits of a pod as a whole, for its cgroup. They hold the overhead. What is not
// limited is said to be so.
func PodLimits(pod *v1.Pod, node *Node) *runtimeapi.LinuxContainerResources {
	requests, limits := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}), resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	r := &runtimeapi.LinuxContainerResources{
		CpuShares: Shares(requests.Cpu().MilliValue()), CpuPeriod: quotaPeriod, CpuQuota: unlimited, MemoryLimitInBytes: unlimited,
		HugepageLimits: hugepageLimits(node, limits),
	}
	if qos.GetPodQOS(pod) == v1.PodQOSBestEffort {
		r.CpuShares = minShares
		return r
	}
	// The sum is a limit only if nothing in it is without one.
	if cpu := limits.Cpu().MilliValue(); cpu > 0 && limited(pod, v1.ResourceCPU) {
		r.CpuQuota = quota(cpu)
	}
	if memory := limits.Memory().Value(); memory > 0 && limited(pod, v1.ResourceMemory) {
		r.MemoryLimitInBytes = memory
	}
	return r
}

// SumOfContainers is what a pod that has no resources as a whole may use because its containers may: what the
// kubelet reads from its cgroup.
func SumOfContainers(pod *v1.Pod) *v1.ResourceRequirements {
	requests, limits := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}), resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	r := &v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if q, ok := requests[name]; ok {
			r.Requests[name] = q
		}
		if q, ok := limits[name]; ok && limited(pod, name) {
			r.Limits[name] = q
		}
	}
	return r
}

// limited tells whether a pod has a limit for a resource, as a whole or for each of its containers.
func limited(pod *v1.Pod, name v1.ResourceName) bool {
	if r := pod.Spec.Resources; r != nil {
		if q, ok := r.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for c, list := range podutil.Containers(pod) {
		if q := c.Resources.Limits[name]; q.IsZero() && list != "spec.ephemeralContainers" {
			return false
		}
	}
	return true
}

// sandboxResources are for runtimes that put a pod into a machine of its own: what the containers need
// together, and what comes on top.
func sandboxResources(pod *v1.Pod) (resources, overhead *runtimeapi.LinuxContainerResources) {
	without := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	requests, limits := resourcehelper.PodRequests(pod, without), resourcehelper.PodLimits(pod, without)
	cpu, ok := requests[v1.ResourceCPU]
	if !ok {
		cpu = *limits.Cpu()
	}
	return linuxResources(cpu, *limits.Cpu(), *limits.Memory()),
		linuxResources(*pod.Spec.Overhead.Cpu(), *pod.Spec.Overhead.Cpu(), *pod.Spec.Overhead.Memory())
}

func linuxResources(cpuRequest, cpuLimit, memory resource.Quantity) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{
		CpuShares: Shares(cpuRequest.MilliValue()), CpuPeriod: quotaPeriod, CpuQuota: quota(cpuLimit.MilliValue()), MemoryLimitInBytes: memory.Value(),
	}
}

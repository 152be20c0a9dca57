package criconfig

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/qos"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

const (
	minShares     = 2
	maxShares     = 262144
	sharesPerCPU  = 1024
	quotaPeriod   = 100000 // microseconds
	minQuota      = 1000   // microseconds
	milliPerCPU   = 1000
	unlimited     = -1
	cgroupV2Probe = "/sys/fs/cgroup/cgroup.controllers"
	swapV1Probe   = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
	swapV2Probe   = "/sys/fs/cgroup/*/memory.swap.max" // the root has none

	oomGuaranteed = -997
	oomBestEffort = 1000
	// systemNodeCritical is the lowest priority of pods that the node cannot do without.
	systemNodeCritical = 2000001000
)

// cgroupV2, swapV1 and swapV2 are what the kernel of this device does; they cannot change while it runs.
var (
	cgroupV2 = sync.OnceValue(func() bool { return exists(cgroupV2Probe) })
	swapV1   = sync.OnceValue(func() bool { return exists(swapV1Probe) })
	swapV2   = sync.OnceValue(func() bool {
		files, _ := filepath.Glob(swapV2Probe)
		return len(files) > 0
	})
)

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func containerResources(pod *v1.Pod, c *v1.Container, node *Node) *runtimeapi.LinuxContainerResources {
	cpuLimit, memoryLimit := limit(pod, c, v1.ResourceCPU), limit(pod, c, v1.ResourceMemory)
	cpuRequest, ok := c.Resources.Requests[v1.ResourceCPU]
	if !ok {
		cpuRequest = cpuLimit
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuShares:          Shares(cpuRequest.MilliValue()),
		CpuPeriod:          quotaPeriod,
		CpuQuota:           quota(cpuLimit.MilliValue()),
		MemoryLimitInBytes: memoryLimit.Value(),
		OomScoreAdj:        oomScoreAdj(pod, c, node.MemoryCapacity),
		HugepageLimits:     hugepageLimits(node, podLevelLimits(pod), c.Resources.Limits),
	}
	// An oom kill takes the whole container, and containers do not swap, where the kernel can do that.
	if cgroupV2() {
		r.Unified = map[string]string{"memory.oom.group": "1"}
		if swapV2() {
			r.Unified["memory.swap.max"] = "0"
		}
	} else if swapV1() {
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
	}
	return r
}

// Update returns what a running container is told when its resources change: a limit that is gone has
// to be said, as nothing said leaves it as it was.
func Update(pod *v1.Pod, c *v1.Container, node *Node) *runtimeapi.LinuxContainerResources {
	r := containerResources(pod, c, node)
	if r.CpuQuota == 0 {
		r.CpuQuota = unlimited
	}
	if r.MemoryLimitInBytes == 0 {
		r.MemoryLimitInBytes = unlimited
		if r.Unified == nil && swapV1() {
			r.MemorySwapLimitInBytes = unlimited
		}
	}
	return r
}

// limit is the container's limit, or the pod's if only that is set.
func limit(pod *v1.Pod, c *v1.Container, name v1.ResourceName) resource.Quantity {
	if q, ok := c.Resources.Limits[name]; ok && !q.IsZero() {
		return q
	}
	return podLevelLimits(pod)[name]
}

// podLevelLimits are those of the pod as a whole, nil if it has none.
func podLevelLimits(pod *v1.Pod) v1.ResourceList {
	if pod.Spec.Resources == nil {
		return nil
	}
	return pod.Spec.Resources.Limits
}

// Shares are the cpu.shares of a request in thousandths of a cpu.
func Shares(milliCPU int64) int64 {
	return min(max(milliCPU*sharesPerCPU/milliPerCPU, minShares), maxShares)
}

// quota is the time in microseconds that a container may run per period; 0 without a limit.
func quota(milliCPU int64) int64 {
	if milliCPU == 0 {
		return 0
	}
	return max(milliCPU*quotaPeriod/milliPerCPU, minQuota)
}

// hugepageLimits are those of every page size that the device has: what nothing is said about has no limit in the
// kernel, and nobody gets pages without asking for them. Later lists take precedence.
func hugepageLimits(node *Node, lists ...v1.ResourceList) []*runtimeapi.HugepageLimit {
	limits := map[int64]uint64{} // by page size
	for name := range node.Allocatable {
		if size, ok := pageSize(name); ok {
			limits[size] = 0
		}
	}
	for _, list := range lists {
		for name, q := range list {
			if size, ok := pageSize(name); ok {
				limits[size] = uint64(q.Value())
			}
		}
	}
	var out []*runtimeapi.HugepageLimit
	for _, size := range slices.Sorted(maps.Keys(limits)) {
		out = append(out, &runtimeapi.HugepageLimit{PageSize: cgroupPageSize(size), Limit: limits[size]})
	}
	return out
}

// pageSize of a resource in bytes, false if it is not huge pages.
func pageSize(name v1.ResourceName) (int64, bool) {
	text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
	if !ok {
		return 0, false
	}
	size, err := resource.ParseQuantity(text)
	return size.Value(), err == nil // the API server has validated it
}

// cgroupPageSize writes a page size as the hugetlb controller does: 2MB, 1GB.
func cgroupPageSize(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB", "TB", "PB"}
	i := 0
	for ; bytes >= 1024 && bytes%1024 == 0 && i < len(units)-1; i++ {
		bytes /= 1024
	}
	return resource.NewQuantity(bytes, resource.DecimalSI).String() + units[i]
}

// oomScoreAdj makes the kernel kill first what uses more than it asked for, and guaranteed pods last.
func oomScoreAdj(pod *v1.Pod, c *v1.Container, capacity int64) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemNodeCritical {
		return oomGuaranteed
	}
	switch qos.GetPodQOS(pod) {
	case v1.PodQOSGuaranteed:
		return oomGuaranteed
	case v1.PodQOSBestEffort:
		return oomBestEffort
	}
	if capacity <= 0 {
		return oomBestEffort - 1
	}
	share := remainingMemory(pod)
	request := c.Resources.Requests.Memory().Value()
	if podutil.IsSidecar(c) { // not before the containers that it serves
		request = max(request, leastRequest(pod.Spec.Containers))
	}
	return min(max(1000-1000*(request+share)/capacity, 1000+oomGuaranteed), oomBestEffort-1)
}

// leastRequest is the lowest of the containers' memory requests.
func leastRequest(containers []v1.Container) (least int64) {
	for i := range containers {
		if request := containers[i].Resources.Requests.Memory().Value(); i == 0 || request < least {
			least = request
		}
	}
	return least
}

// remainingMemory is a container's share of the memory that the pod as a whole has asked for beyond what its
// containers have.
func remainingMemory(pod *v1.Pod) int64 {
	if !resourcehelper.IsPodLevelRequestsSet(pod) {
		return 0
	}
	containers := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	remaining := pod.Spec.Resources.Requests.Memory().Value() - containers.Memory().Value()
	return max(remaining, 0) / int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
}

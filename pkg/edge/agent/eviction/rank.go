package eviction

import (
	"cmp"
	"math"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// rank sorts pods by who has to go first: those that use more than they asked for, then those of the
// least priority, then those that use the most beyond what they asked for. A pod about which nothing is
// known goes before others.
func rank(pods []*v1.Pod, stats map[string]*statsapi.PodStats, resource v1.ResourceName, files part) {
	type standing struct {
		unknown, exceeds bool
		priority         int32
		beyond           int64
	}
	standings := make(map[*v1.Pod]standing, len(pods))
	for _, pod := range pods {
		s := standing{priority: corev1helpers.PodPriority(pod)}
		used, ok := usage(stats[string(pod.UID)], resource, files)
		s.unknown = !ok
		s.beyond = used - requested(pod, resource)
		// Process ids and inodes cannot be asked for; ids are not counted as exceeded, as with the kubelet.
		s.exceeds = s.beyond > 0 && resource != resourcePIDs
		standings[pod] = s
	}
	slices.SortStableFunc(pods, func(a, b *v1.Pod) int {
		x, y := standings[a], standings[b]
		return cmp.Or(first(x.unknown, y.unknown), first(x.exceeds, y.exceeds), cmp.Compare(x.priority, y.priority), cmp.Compare(y.beyond, x.beyond))
	})
}

// first puts true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// usage is what a pod uses of a resource, false if it is not known.
func usage(s *statsapi.PodStats, resource v1.ResourceName, files part) (int64, bool) {
	switch {
	case s == nil:
	case onDisk(resource) && s.EphemeralStorage == nil:
		return math.MaxInt64, true // what could not be measured in time is large
	case resource == v1.ResourceMemory && s.Memory != nil && s.Memory.WorkingSetBytes != nil:
		return int64(*s.Memory.WorkingSetBytes), true
	case resource == v1.ResourceEphemeralStorage:
		return files.sum(s, func(fs *statsapi.FsStats) *uint64 { return fs.UsedBytes }), true
	case resource == resourceInodes && s.EphemeralStorage.InodesUsed != nil:
		return files.sum(s, func(fs *statsapi.FsStats) *uint64 { return fs.InodesUsed }), true
	case resource == resourcePIDs:
		if s.ProcessStats == nil || s.ProcessStats.ProcessCount == nil {
			return 0, true // older runtimes do not tell: priority decides alone
		}
		return int64(*s.ProcessStats.ProcessCount), true
	}
	return 0, false
}

// part is which of a pod's files lie in the file system that is short.
type part int

const (
	allFiles  part = iota
	layers         // the containers' own files
	notLayers      // logs and volumes
)

// partOf tells what counts for a signal, by whether the containers' own files lie in another file system than the rest.
func partOf(signal Signal, layersApart bool) part {
	switch {
	case !layersApart:
		return allFiles
	case signal == ImageFsAvailable || signal == ImageFsInodesFree:
		return layers
	}
	return notLayers
}

// sum adds up a figure of the part, of a pod of which all is known.
func (p part) sum(s *statsapi.PodStats, figure func(*statsapi.FsStats) *uint64) int64 {
	all, own := ptr.Deref(figure(s.EphemeralStorage), 0), uint64(0)
	for i := range s.Containers {
		if fs := s.Containers[i].Rootfs; fs != nil {
			own += ptr.Deref(figure(fs), 0)
		}
	}
	switch p {
	case layers:
		return int64(own)
	case notLayers:
		return int64(all - own)
	}
	return int64(all)
}

// onDisk tells whether a resource is one of a file system.
func onDisk(resource v1.ResourceName) bool {
	return resource == v1.ResourceEphemeralStorage || resource == resourceInodes
}

func requested(pod *v1.Pod, resource v1.ResourceName) int64 {
	q := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[resource]
	return q.Value()
}

// spared tells whether a pod is never stopped: a static one, or one that the system cannot do without.
func spared(pod *v1.Pod) bool { return podutil.IsCritical(pod) }

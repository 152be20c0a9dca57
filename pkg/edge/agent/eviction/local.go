package eviction

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// Check tells whether a pod keeps more on the device's disk than it may.
type Check struct {
	// Limited tells whether there is a limit at all: what pods use is measured only for those that have one.
	Limited func(*v1.Pod) bool
	// Exceeded returns the message for the pod's status, empty if it keeps to its limits.
	Exceeded func(*v1.Pod, *statsapi.PodStats) string
}

// LocalStorage are the checks of the kubelet, in its order.
func LocalStorage() []Check {
	return []Check{
		{Limited: limitsEmptyDir, Exceeded: emptyDirExceeded},
		{Limited: limitsStorage, Exceeded: podStorageExceeded},
		{Limited: limitsStorage, Exceeded: containerStorageExceeded},
	}
}

// limitedEmptyDir tells whether a volume has a limit that the kernel does not see to, as with a tmpfs.
func limitedEmptyDir(v *v1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil && v.EmptyDir.SizeLimit.Sign() > 0 && v.EmptyDir.Medium != v1.StorageMediumMemory
}

func limitsEmptyDir(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if limitedEmptyDir(&pod.Spec.Volumes[i]) {
			return true
		}
	}
	return false
}

func emptyDirExceeded(pod *v1.Pod, stats *statsapi.PodStats) string {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !limitedEmptyDir(v) {
			continue
		}
		for _, s := range stats.VolumeStats {
			if s.Name == v.Name && used(&s.FsStats) > v.EmptyDir.SizeLimit.Value() {
				return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
			}
		}
	}
	return ""
}

func limitsStorage(pod *v1.Pod) bool {
	for c := range podutil.Containers(pod) {
		if !c.Resources.Limits.StorageEphemeral().IsZero() {
			return true
		}
	}
	return false
}

func podStorageExceeded(pod *v1.Pod, stats *statsapi.PodStats) string {
	// As with the kubelet, containers without a limit share in that of the others.
	limit, ok := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[v1.ResourceEphemeralStorage]
	if !ok || used(stats.EphemeralStorage) <= limit.Value() {
		return ""
	}
	return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
}

func containerStorageExceeded(pod *v1.Pod, stats *statsapi.PodStats) string {
	for i := range stats.Containers {
		s := &stats.Containers[i]
		c := podutil.FindContainer(pod, s.Name)
		if c == nil {
			continue
		}
		limit := c.Resources.Limits.StorageEphemeral()
		if !limit.IsZero() && used(s.Logs)+used(s.Rootfs) > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", s.Name, limit.String())
		}
	}
	return ""
}

// used is 0 if it is not known.
func used(fs *statsapi.FsStats) int64 {
	if fs == nil || fs.UsedBytes == nil {
		return 0
	}
	return int64(*fs.UsedBytes)
}

func binary(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

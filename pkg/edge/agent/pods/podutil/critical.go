package podutil

import (
	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/staticpod"
)

// Reasons in the status of pods that had to make room: for the device as a whole, or for a critical pod.
const (
	ReasonEvicted    = "Evicted"
	ReasonPreempting = "Preempting"
)

// systemCriticalPriority is the least priority of pods that a cluster cannot do without.
const systemCriticalPriority = 2000000000

// IsCritical tells whether a pod must not make room for others: a static one, or one of the highest
// priorities. A static pod is known by its UID: annotations are in the hands of whoever makes pods.
func IsCritical(pod *v1.Pod) bool {
	return staticpod.ValidHash(string(pod.UID)) || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCriticalPriority
}

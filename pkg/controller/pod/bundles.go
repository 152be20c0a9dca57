package pod

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// bundlesChanged looks again at the pods that take something from ClusterTrustBundles.
func (c *Controller) bundlesChanged() {
	pods, err := c.lister.List(labels.Everything())
	if err != nil {
		return // a list from memory does not fail
	}
	for _, pod := range pods {
		if usesBundles(pod) && c.ours(pod) {
			c.sync.Add(keyOf(pod))
		}
	}
}

func usesBundles(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
	})
}

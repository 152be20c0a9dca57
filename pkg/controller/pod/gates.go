package pod

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// applyGates lets the readiness gates of a pod have their say in what its device reported, as the
// kubelet does whenever somebody sets one of their conditions. Those conditions exist in the cluster
// only: the device would hear of a change late, or, if it is away, not at all.
func applyGates(pod *corev1.Pod, reported *corev1.PodStatus) {
	if len(pod.Spec.ReadinessGates) == 0 {
		return
	}
	containers, ready := findCondition(reported.Conditions, corev1.ContainersReady), findCondition(reported.Conditions, corev1.PodReady)
	if containers == nil || ready == nil || containers.Status != corev1.ConditionTrue {
		return
	}
	ready.Status, ready.Reason, ready.Message = corev1.ConditionTrue, "", ""
	if message := unmetGates(pod); message != "" {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", message
	}
	ready.LastTransitionTime = metav1.Time{} // not when the containers became ready: now, if it changes
}

// unmetGates says in the kubelet's words what the gates wait for.
func unmetGates(pod *corev1.Pod) string {
	var messages []string
	for _, gate := range pod.Spec.ReadinessGates {
		switch c := findCondition(pod.Status.Conditions, gate.ConditionType); {
		case c == nil:
			messages = append(messages, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case c.Status != corev1.ConditionTrue:
			messages = append(messages, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
		}
	}
	return strings.Join(messages, ", ")
}

package status

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

// Reasons of conditions.
const (
	reasonUnknownStatuses   = "UnknownContainerStatuses"
	reasonPodCompleted      = "PodCompleted"
	reasonPodFailed         = "PodFailed"
	reasonContainersUnready = "ContainersNotReady"
	reasonUninitialized     = "ContainersNotInitialized"
	reasonGatesUnready      = "ReadinessGatesNotReady"
	reasonSandboxUnready    = "PodSandboxNotReady"
	reasonContainerExited   = "ContainerExited"
)

// owned are the conditions that the device sets. All others are kept as the cluster has them.
var owned = map[v1.PodConditionType]bool{
	v1.PodReadyToStartContainers: true,
	v1.PodInitialized:            true,
	v1.PodReady:                  true,
	v1.ContainersReady:           true,
	v1.PodResizePending:          true,
	v1.PodResizeInProgress:       true,
	v1.AllContainersRestarting:   true,
}

func setConditions(in Input, s *v1.PodStatus) {
	s.Conditions = keptConditions(in)
	ready := containersReady(in.Pod, s)
	conditions := []v1.PodCondition{readyToStart(in), podInitialized(in.Pod, s), podReady(in.Pod, s, ready), ready}
	if !podutil.IsTerminal(s.Phase) {
		conditions = append(conditions, resizeConditions(in.Resize)...)
		if c := in.RestartingAll; c != nil {
			conditions = append(conditions, v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionTrue, Reason: reasonContainerExited,
				Message: fmt.Sprintf("Container %s exited with code %d: all containers are restarted", c.Name, c.ExitCode)})
		}
	}
	for _, c := range conditions {
		c.ObservedGeneration = in.Pod.Generation
		c.LastTransitionTime = transitionTime(in, c)
		s.Conditions = append(s.Conditions, c)
	}
}

// keptConditions are those that are not computed: the cluster's, and that the device has stopped the pod for others,
// which is known only when it does.
func keptConditions(in Input) []v1.PodCondition {
	kept := slices.DeleteFunc(slices.Clone(in.Pod.Status.Conditions), func(c v1.PodCondition) bool { return owned[c.Type] })
	own := findCondition(in.Old.Conditions, v1.DisruptionTarget)
	switch {
	case in.End != nil && in.End.Disruption != "":
		own = &v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: in.End.Disruption,
			ObservedGeneration: in.Pod.Generation, LastTransitionTime: metav1.NewTime(in.Now).Rfc3339Copy(),
		}
	case own == nil || own.Reason != v1.PodReasonTerminationByKubelet:
		return kept
	}
	kept = slices.DeleteFunc(kept, func(c v1.PodCondition) bool { return c.Type == own.Type })
	return append(kept, *own)
}

func findCondition(conditions []v1.PodCondition, t v1.PodConditionType) *v1.PodCondition {
	i := slices.IndexFunc(conditions, func(c v1.PodCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &conditions[i]
}

// resizeConditions are there, and true, only while there is something to say.
func resizeConditions(r Resize) []v1.PodCondition {
	var conditions []v1.PodCondition
	if r.Pending != nil {
		conditions = append(conditions, v1.PodCondition{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: r.Pending.Reason, Message: r.Pending.Message})
	}
	if r.InProgress != nil {
		conditions = append(conditions, v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue, Reason: r.InProgress.Reason, Message: r.InProgress.Message})
	}
	return conditions
}

// transitionTime is when the condition got the value it has.
func transitionTime(in Input, c v1.PodCondition) metav1.Time {
	for _, before := range in.Old.Conditions {
		if before.Type == c.Type && before.Status == c.Status && !before.LastTransitionTime.IsZero() {
			return before.LastTransitionTime
		}
	}
	return metav1.NewTime(in.Now).Rfc3339Copy()
}

func condition(t v1.PodConditionType, reason, message string) v1.PodCondition {
	c := v1.PodCondition{Type: t, Status: v1.ConditionTrue, Reason: reason, Message: message}
	if reason != "" {
		c.Status = v1.ConditionFalse
	}
	return c
}

func readyToStart(in Input) v1.PodCondition {
	sandbox := in.State.ReadySandbox()
	switch {
	case len(in.State.Sandboxes) == 0:
		return condition(v1.PodReadyToStartContainers, reasonSandboxUnready, "No Pod Sandbox found")
	case sandbox == nil:
		return condition(v1.PodReadyToStartContainers, reasonSandboxUnready, "Pod Sandbox is not ready")
	case !in.Pod.Spec.HostNetwork && !state.HasNetwork(sandbox):
		return condition(v1.PodReadyToStartContainers, reasonSandboxUnready, "No Pod IP address found")
	}
	return condition(v1.PodReadyToStartContainers, "", "")
}

func containersReady(pod *v1.Pod, s *v1.PodStatus) v1.PodCondition {
	switch s.Phase {
	case v1.PodSucceeded:
		return condition(v1.ContainersReady, reasonPodCompleted, "")
	case v1.PodFailed:
		return condition(v1.ContainersReady, reasonPodFailed, "")
	}
	if len(s.ContainerStatuses) == 0 {
		return condition(v1.ContainersReady, reasonUnknownStatuses, "")
	}
	var unready []string
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if cs := find(s.InitContainerStatuses, c.Name); podutil.IsSidecar(c) && !cs.Ready {
			unready = append(unready, c.Name)
		}
	}
	for i := range pod.Spec.Containers {
		if cs := find(s.ContainerStatuses, pod.Spec.Containers[i].Name); !cs.Ready {
			unready = append(unready, cs.Name)
		}
	}
	if len(unready) > 0 {
		return condition(v1.ContainersReady, reasonContainersUnready, fmt.Sprintf("containers with unready status: %s", unready))
	}
	return condition(v1.ContainersReady, "", "")
}

func podReady(pod *v1.Pod, s *v1.PodStatus, containers v1.PodCondition) v1.PodCondition {
	if containers.Status != v1.ConditionTrue {
		return condition(v1.PodReady, containers.Reason, containers.Message)
	}
	var messages []string
	for _, gate := range pod.Spec.ReadinessGates {
		have := findCondition(s.Conditions, gate.ConditionType)
		if have == nil {
			messages = append(messages, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		} else if have.Status != v1.ConditionTrue {
			messages = append(messages, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, have.Status))
		}
	}
	if len(messages) > 0 {
		return condition(v1.PodReady, reasonGatesUnready, strings.Join(messages, ", "))
	}
	return condition(v1.PodReady, "", "")
}

func podInitialized(pod *v1.Pod, s *v1.PodStatus) v1.PodCondition {
	if s.Phase == v1.PodSucceeded {
		return v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue, Reason: reasonPodCompleted}
	}
	for i := range s.ContainerStatuses {
		cs := &s.ContainerStatuses[i]
		if cs.State.Running != nil || cs.State.Terminated != nil || cs.LastTerminationState.Terminated != nil {
			return condition(v1.PodInitialized, "", "") // once initialized, always initialized
		}
	}
	var incomplete []string
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		cs := find(s.InitContainerStatuses, c.Name)
		done := cs.Ready
		if podutil.IsSidecar(c) {
			done = cs.Started != nil && *cs.Started
		}
		if !done {
			incomplete = append(incomplete, c.Name)
		}
	}
	if len(incomplete) > 0 {
		return condition(v1.PodInitialized, reasonUninitialized, fmt.Sprintf("containers with incomplete status: %s", incomplete))
	}
	return condition(v1.PodInitialized, "", "")
}

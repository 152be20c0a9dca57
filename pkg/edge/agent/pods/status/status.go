// Package status computes the v1.PodStatus of a pod from the state of the runtime, as the kubelet
// would report it. It is one pure function: no clock, no I/O, no memory but the status before.
package status

import (
	"slices"
	"sort"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"

	"arhat.dev/aranya/pkg/clip"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

// Reason is why a container is waiting.
type Reason struct {
	Reason, Message string
}

// Probes tells what the probes of a container say. A container without a probe has passed it.
type Probes interface {
	// Started tells whether the container has passed its startup probe.
	Started(c *v1.Container, containerID string) bool
	// Ready tells whether the container passes its readiness probe.
	Ready(c *v1.Container, containerID string) bool
}

// Input is what a status is computed from.
type Input struct {
	Pod   *v1.Pod
	State *state.Pod
	// Old is the status before; it is not modified.
	Old *v1.PodStatus
	// Reasons by container why it could not be started the last time.
	Reasons map[string]Reason
	Probes  Probes
	// Ended says that the pod will start no container any more, whatever its restart policy.
	Ended bool
	// End is set once nothing of the pod runs any more, if how it ends does not depend on how its containers were
	// stopped: the device has decided it, or they had ended by themselves before the rest was stopped. It is of no
	// account if the pod had ended before.
	End *End
	// HostIPs and PodIPs, primary first.
	HostIPs, PodIPs []string
	// Runtime is the name of the container runtime, as in container ids.
	Runtime string
	// Resources returns what a container was last given, nil if that is not known: what its spec says.
	Resources func(containerID string) *v1.ResourceRequirements
	// PodResources is what the pod as a whole was last given, or what its containers sum up to.
	PodResources *v1.ResourceRequirements
	Resize       Resize
	// RestartingAll is a container that has made all of the pod start anew, nil if there is none.
	RestartingAll *state.Container
	// RecursiveReadOnly tells whether the runtime can mount so.
	RecursiveReadOnly bool
	Now               time.Time
}

// End is how a pod ends, whatever its containers make of it.
type End struct {
	Phase           v1.PodPhase
	Reason, Message string
	// Disruption is the message of the condition that says that it is not the pod's own fault, empty if it is.
	Disruption string
}

// Resize is how far a change of the pod's resources has come. Pending is why it has not been granted,
// InProgress is set while what was granted is not in force yet, with a reason if that failed.
type Resize struct {
	Pending, InProgress *Reason
}

// Generate returns the status.
func Generate(in Input) *v1.PodStatus {
	pod, old := in.Pod, in.Old
	if podutil.IsTerminal(old.Phase) || podutil.IsTerminal(pod.Status.Phase) {
		in.End = nil
	}
	s := &v1.PodStatus{
		ObservedGeneration: pod.Generation,
		StartTime:          old.StartTime,
		QOSClass:           qos.GetPodQOS(pod),
	}
	if s.StartTime == nil {
		s.StartTime = &metav1.Time{Time: in.Now.Truncate(time.Second)}
	}
	hasInit := len(pod.Spec.InitContainers) > 0
	s.ContainerStatuses = containerStatuses(in, pod.Spec.Containers, old.ContainerStatuses, hasInit, false)
	sort.Slice(s.ContainerStatuses, func(i, j int) bool { return s.ContainerStatuses[i].Name < s.ContainerStatuses[j].Name })
	s.InitContainerStatuses = containerStatuses(in, pod.Spec.InitContainers, old.InitContainerStatuses, hasInit, true)
	var ephemeral []v1.Container
	for i := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	s.EphemeralContainerStatuses = containerStatuses(in, ephemeral, old.EphemeralContainerStatuses, hasInit, false)
	limitMessages(pod, s)

	s.AllocatedResources = resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	s.Resources = in.PodResources.DeepCopy()
	setProbeResults(in, s)
	setPhase(in, s)
	setConditions(in, s)
	setAddresses(in, s)
	return s
}

// maxMessages is how many bytes the messages that containers leave when they end have in one pod, as with the
// kubelet: the status is stored with each change.
const maxMessages = 12 << 10

// limitMessages cuts the messages that containers have left to the equal share of each.
func limitMessages(pod *v1.Pod, s *v1.PodStatus) {
	share := maxMessages / max(1, len(pod.Spec.Containers)+len(pod.Spec.InitContainers)+len(pod.Spec.EphemeralContainers))
	for _, statuses := range [][]v1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range statuses {
			for _, state := range []*v1.ContainerState{&statuses[i].State, &statuses[i].LastTerminationState} {
				if t := state.Terminated; t != nil && len(t.Message) > share {
					state.Terminated = t.DeepCopy() // it may be that of the former status
					state.Terminated.Message = clip.String(t.Message, share)
				}
			}
		}
	}
}

// setPhase computes the phase. A pod that has ended neither comes back nor ends in another way, however its
// containers were stopped; what the cluster says of it counts most.
func setPhase(in Input, s *v1.PodStatus) {
	if in.End != nil {
		s.Phase, s.Reason, s.Message = in.End.Phase, in.End.Reason, in.End.Message
		return
	}
	s.Phase = phase(in, s)
	for _, before := range []*v1.PodStatus{in.Old, &in.Pod.Status} {
		if podutil.IsTerminal(before.Phase) {
			s.Phase = before.Phase
		}
	}
	if s.Phase == in.Old.Phase { // the reason belongs to the phase
		s.Reason, s.Message = in.Old.Reason, in.Old.Message
	}
}

func setProbeResults(in Input, s *v1.PodStatus) {
	set := func(containers []v1.Container, statuses []v1.ContainerStatus, init bool) {
		for i := range statuses {
			cs := &statuses[i]
			c := findIn(containers, cs.Name)
			if c == nil {
				continue
			}
			started := cs.State.Running != nil && in.Probes.Started(c, bareID(cs.ContainerID))
			cs.Started = &started
			switch {
			case init && !podutil.IsSidecar(c):
				cs.Ready = cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
			default:
				cs.Ready = started && in.Probes.Ready(c, bareID(cs.ContainerID))
			}
		}
	}
	set(in.Pod.Spec.Containers, s.ContainerStatuses, false)
	set(in.Pod.Spec.InitContainers, s.InitContainerStatuses, true)
}

func findIn(containers []v1.Container, name string) *v1.Container {
	for i := range containers {
		if containers[i].Name == name {
			return &containers[i]
		}
	}
	return nil
}

// setAddresses tells the addresses of now. A pod without a ready sandbox, as one that has ended, is left those
// that it had.
func setAddresses(in Input, s *v1.PodStatus) {
	if in.State.ReadySandbox() == nil && len(in.PodIPs) == 0 {
		s.PodIP, s.PodIPs = in.Old.PodIP, slices.Clone(in.Old.PodIPs)
	}
	for i, ip := range in.HostIPs {
		if i == 0 {
			s.HostIP = ip
		}
		s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
	}
	for i, ip := range in.PodIPs {
		if i == 0 {
			s.PodIP = ip
		}
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
}

// Final turns the status of a pod of which nothing runs any more, and nothing will, into a terminal one:
// a container whose end nobody has seen has failed, and so has its pod. Those that were not reached wait.
func Final(pod *v1.Pod, s *v1.PodStatus) *v1.PodStatus {
	s = s.DeepCopy()
	lost := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		Reason: reasonUnknown, Message: "The container could not be located when the pod was terminated", ExitCode: exitKilled,
	}}
	reached := everInitialized(pod, s)
	for i := range s.ContainerStatuses {
		cs := &s.ContainerStatuses[i]
		if reached && cs.State.Terminated == nil {
			cs.State = lost
		}
		cs.Ready, cs.Started = false, new(bool)
	}
	reached = false
	for i := len(s.InitContainerStatuses) - 1; i >= 0; i-- {
		cs := &s.InitContainerStatuses[i]
		reached = reached || i == 0 || begun(cs)
		if reached && cs.State.Terminated == nil {
			cs.State = lost
		}
	}
	if !podutil.IsTerminal(s.Phase) {
		s.Phase = v1.PodFailed
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if (c.Type == v1.PodReady || c.Type == v1.ContainersReady) && c.Reason != reasonPodCompleted {
			c.Status, c.Reason, c.Message = v1.ConditionFalse, reasonPodFailed, ""
		}
	}
	return s
}

// begun tells whether a container has ever been started.
func begun(cs *v1.ContainerStatus) bool {
	return cs.State.Waiting == nil || cs.LastTerminationState.Terminated != nil
}

// everInitialized tells whether the init containers have ever let the others begin.
func everInitialized(pod *v1.Pod, s *v1.PodStatus) bool {
	if len(pod.Spec.InitContainers) == 0 {
		return true
	}
	for i := range s.ContainerStatuses {
		if begun(&s.ContainerStatuses[i]) {
			return true
		}
	}
	last := &pod.Spec.InitContainers[len(pod.Spec.InitContainers)-1]
	cs := find(s.InitContainerStatuses, last.Name)
	if podutil.IsSidecar(last) {
		return cs.State.Running != nil && cs.Started != nil && *cs.Started
	}
	done := func(state v1.ContainerState) bool { return state.Terminated != nil && state.Terminated.ExitCode == 0 }
	return done(cs.State) || done(cs.LastTerminationState)
}

// rejectedPrefix begins the message of a pod that was refused.
const rejectedPrefix = "Pod was rejected: "

// IsRejected tells whether a status was made by Rejected.
func IsRejected(s *v1.PodStatus) bool {
	return s.Phase == v1.PodFailed && s.Reason != "" && strings.HasPrefix(s.Message, rejectedPrefix)
}

// Rejected is the status of a pod that the device refuses to run.
func Rejected(pod *v1.Pod, reason, message string, hostIPs []string, now time.Time) *v1.PodStatus {
	s := &v1.PodStatus{
		ObservedGeneration: pod.Generation,
		Phase:              v1.PodFailed,
		Reason:             reason,
		Message:            rejectedPrefix + message,
		StartTime:          pod.Status.StartTime,
		QOSClass:           qos.GetPodQOS(pod),
		Conditions:         pod.Status.Conditions,
	}
	if s.StartTime == nil {
		s.StartTime = &metav1.Time{Time: now.Truncate(time.Second)}
	}
	for i, ip := range hostIPs {
		if i == 0 {
			s.HostIP = ip
		}
		s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
	}
	return s
}

package status

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	"arhat.dev/aranya/pkg/edge/restartpolicy"
)

const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonUnknown      = "ContainerStatusUnknown"
	exitKilled         = 137
	// reasonRestartingAll is why a container has ended that starts anew with all others, whatever its own
	// restart policy.
	reasonRestartingAll = "RestartingAllContainers"
)

// containerStatuses returns the statuses of one list of the pod's containers, in its order.
func containerStatuses(in Input, containers []v1.Container, old []v1.ContainerStatus, hasInit, init bool) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for i := range containers {
		c := &containers[i]
		var before *v1.ContainerStatus
		for j := range old {
			if old[j].Name == c.Name {
				before = &old[j]
			}
		}
		cs := fromRuntime(in, c, before)
		if cs == nil {
			cs = withoutInstance(in, c, before, hasInit)
		}
		if before != nil && len(before.VolumeMounts) > 0 { // they do not change, and the runtime may not have been asked
			cs.VolumeMounts = before.DeepCopy().VolumeMounts
		} else {
			cs.VolumeMounts = volumeMounts(c, in.RecursiveReadOnly)
		}
		applyReason(in, c, cs, init)
		out = append(out, *cs)
	}
	return out
}

// fromRuntime returns the status of the newest instance, with how the one before it ended; nil if the
// runtime has none.
func fromRuntime(in Input, c *v1.Container, before *v1.ContainerStatus) *v1.ContainerStatus {
	var cs *v1.ContainerStatus
	for _, instance := range in.State.Containers {
		if instance.Name != c.Name {
			continue
		}
		if cs == nil {
			cs = convert(in, c, instance, before)
			continue
		}
		if instance.Exited() {
			cs.LastTerminationState = stateOf(in, instance)
		}
		break
	}
	if cs == nil {
		return nil
	}
	if cs.LastTerminationState.Terminated == nil && before != nil {
		// The runtime has lost the instance before, but it has been reported.
		switch {
		case before.ContainerID != cs.ContainerID && before.State.Terminated != nil:
			cs.LastTerminationState = before.State
		case before.LastTerminationState.Terminated != nil && before.LastTerminationState.Terminated.ContainerID != cs.ContainerID:
			cs.LastTerminationState = before.LastTerminationState
		}
	}
	return cs
}

func convert(in Input, c *v1.Container, instance *state.Container, before *v1.ContainerStatus) *v1.ContainerStatus {
	cs := &v1.ContainerStatus{
		Name:         c.Name,
		RestartCount: int32(instance.RestartCount),
		Image:        instance.Image,
		ImageID:      instance.ImageRef,
		ContainerID:  in.Runtime + "://" + instance.ID,
		State:        stateOf(in, instance),
	}
	if before != nil && before.RestartCount > cs.RestartCount {
		cs.RestartCount = before.RestartCount
	}
	if cs.Image == "" {
		cs.Image = c.Image
	}
	cs.Resources = c.Resources.DeepCopy()
	if in.Resources != nil {
		if given := in.Resources(instance.ID); given != nil {
			cs.Resources = given.DeepCopy()
		}
	}
	cs.AllocatedResources = c.Resources.Requests.DeepCopy()
	if user := instance.User.GetLinux(); user != nil {
		cs.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: user.Uid, GID: user.Gid, SupplementalGroups: user.SupplementalGroups}}
	}
	cs.StopSignal = stopSignal(instance.StopSignal)
	return cs
}

// stopSignal is the API's name of a signal; nil if the runtime does not say.
func stopSignal(s runtimeapi.Signal) *v1.Signal {
	if s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return nil
	}
	name := v1.Signal(strings.NewReplacer("SIGNAL_", "", "PLUS", "+", "MINUS", "-").Replace(s.String()))
	return &name
}

func stateOf(in Input, instance *state.Container) v1.ContainerState {
	switch instance.State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(instance.StartedAt).Rfc3339Copy()}}
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reasonCreating}}
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ExitCode:    instance.ExitCode,
			Reason:      instance.Reason,
			Message:     instance.Message,
			StartedAt:   metav1.NewTime(instance.StartedAt).Rfc3339Copy(),
			FinishedAt:  metav1.NewTime(instance.FinishedAt).Rfc3339Copy(),
			ContainerID: in.Runtime + "://" + instance.ID,
		}}
	}
	return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		ExitCode:    exitKilled,
		Reason:      reasonUnknown,
		Message:     "The container could not be located when the pod was terminated",
		ContainerID: in.Runtime + "://" + instance.ID,
	}}
}

// withoutInstance is the status of a container that the runtime does not have: not yet, or no more.
func withoutInstance(in Input, c *v1.Container, before *v1.ContainerStatus, hasInit bool) *v1.ContainerStatus {
	reason := reasonCreating
	if hasInit {
		reason = reasonInitializing
	}
	cs := &v1.ContainerStatus{
		Name: c.Name, Image: c.Image,
		State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}},
	}
	if before == nil {
		return cs
	}
	if before.State.Terminated != nil {
		return before.DeepCopy()
	}
	cs.RestartCount = before.RestartCount
	cs.LastTerminationState = before.LastTerminationState
	if before.State.Running != nil && cs.LastTerminationState.Terminated == nil {
		// It ran and is gone: it has ended, though nobody knows how.
		cs.LastTerminationState.Terminated = &v1.ContainerStateTerminated{
			Reason:   reasonUnknown,
			Message:  "The container could not be located when the pod was deleted.  The container used to be Running",
			ExitCode: exitKilled,
		}
		if !in.Ended {
			cs.RestartCount++
		}
	}
	return cs
}

// applyReason turns a container that could not be started into a waiting one that says why.
func applyReason(in Input, c *v1.Container, cs *v1.ContainerStatus, init bool) {
	instance := in.State.Find(c.Name)
	if in.RestartingAll != nil && !in.Ended && cs.State.Terminated != nil && (init || findIn(in.Pod.Spec.Containers, c.Name) != nil) {
		reason, ok := in.Reasons[c.Name]
		if !ok && len(in.Pod.Spec.InitContainers) > 0 {
			reason.Reason = reasonInitializing
		} else if !ok {
			reason.Reason = reasonCreating
		}
		cs.LastTerminationState = cs.State
		if c.Name != in.RestartingAll.Name {
			cs.LastTerminationState.Terminated.Reason = reasonRestartingAll
		}
		cs.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason.Reason, Message: reason.Message}}
		return
	}
	if init && !podutil.IsSidecar(c) {
		if instance != nil && instance.Exited() && instance.ExitCode == 0 {
			return
		}
		if instance == nil && cs.State.Waiting != nil && anyRegularCreated(in) {
			cs.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
				Reason:  "Completed",
				Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
			}}
			return
		}
	}
	reason, ok := in.Reasons[c.Name]
	if !ok || in.Ended || !startable(in.Pod, c, instance) {
		return
	}
	if cs.State.Terminated != nil {
		cs.LastTerminationState = cs.State
	}
	cs.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason.Reason, Message: reason.Message}}
}

// startable tells whether the container is to be started, given its newest instance.
func startable(pod *v1.Pod, c *v1.Container, instance *state.Container) bool {
	switch {
	case instance == nil:
		return true
	case instance.Running():
		return false
	case !instance.Exited():
		return true
	}
	return restartpolicy.ShouldRestart(pod, c, instance.ExitCode)
}

func anyRegularCreated(in Input) bool {
	for i := range in.Pod.Spec.Containers {
		if in.State.Find(in.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

func volumeMounts(c *v1.Container, recursive bool) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, vm := range c.VolumeMounts {
		m := v1.VolumeMountStatus{Name: vm.Name, MountPath: vm.MountPath, ReadOnly: vm.ReadOnly}
		if vm.ReadOnly {
			effective := v1.RecursiveReadOnlyDisabled
			if recursive && vm.RecursiveReadOnly != nil && *vm.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
				effective = v1.RecursiveReadOnlyEnabled
			}
			m.RecursiveReadOnly = &effective
		}
		out = append(out, m)
	}
	return out
}

// bareID strips the runtime's name from a container id.
func bareID(id string) string {
	_, bare, _ := strings.Cut(id, "://")
	return bare
}

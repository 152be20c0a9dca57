package status

import (
	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/restartpolicy"
)

// counts are the containers of a pod by what they do.
type counts struct {
	pendingInit, pendingSidecars, failedForGood int
	running, waiting, unknown                   int
	stopped, stoppedForGood, succeeded          int
}

func phase(in Input, s *v1.PodStatus) v1.PodPhase {
	n := count(in.Pod, s)
	switch {
	case in.RestartingAll != nil && !in.Ended:
		return v1.PodRunning // however the others were stopped
	case n.failedForGood > 0:
		return v1.PodFailed
	case n.pendingInit > 0, n.pendingSidecars > 0 && !initialized(in), n.waiting > 0:
		return v1.PodPending
	case n.running > 0 && n.unknown == 0:
		return v1.PodRunning
	case n.running == 0 && n.stopped > 0 && n.unknown == 0:
		if !in.Ended && n.stopped != n.stoppedForGood {
			return v1.PodRunning // one is about to be started again
		}
		if n.stopped == n.succeeded {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	}
	return v1.PodPending
}

// initialized tells whether a regular container has been started in the sandbox of now.
func initialized(in Input) bool {
	for i := range in.Pod.Spec.Containers {
		if c := in.State.FindActive(in.Pod.Spec.Containers[i].Name); c != nil && !c.StartedAt.IsZero() {
			return true
		}
	}
	return false
}

func count(pod *v1.Pod, s *v1.PodStatus) counts {
	var n counts
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		cs := find(s.InitContainerStatuses, c.Name)
		if podutil.IsSidecar(c) {
			n.addSidecar(cs)
		} else {
			n.addInit(pod, c, cs)
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		n.addRegular(pod, c, find(s.ContainerStatuses, c.Name))
	}
	return n
}

func (n *counts) addInit(pod *v1.Pod, c *v1.Container, cs *v1.ContainerStatus) {
	var end *v1.ContainerStateTerminated
	switch {
	case cs == nil:
	case cs.State.Terminated != nil:
		end = cs.State.Terminated
	case cs.State.Waiting != nil:
		end = cs.LastTerminationState.Terminated
	}
	if end == nil {
		n.pendingInit++
	} else if end.ExitCode != 0 && !restarts(pod, c, end) {
		n.failedForGood++
	}
}

func (n *counts) addSidecar(cs *v1.ContainerStatus) {
	switch {
	case cs == nil:
		n.unknown++
	case cs.State.Running != nil:
		if cs.Started == nil || !*cs.Started {
			n.pendingSidecars++
		}
		n.running++
	case cs.State.Waiting != nil && cs.LastTerminationState.Terminated == nil:
		n.pendingSidecars++
		n.waiting++
	}
}

func (n *counts) addRegular(pod *v1.Pod, c *v1.Container, cs *v1.ContainerStatus) {
	var end *v1.ContainerStateTerminated
	switch {
	case cs == nil:
		n.unknown++
		return
	case cs.State.Running != nil:
		n.running++
		return
	case cs.State.Terminated != nil:
		end = cs.State.Terminated
		if end.ExitCode == 0 {
			n.succeeded++
		}
	case cs.State.Waiting != nil:
		end = cs.LastTerminationState.Terminated
	}
	if end == nil {
		n.waiting++
		return
	}
	n.stopped++
	if !restarts(pod, c, end) {
		n.stoppedForGood++
	}
}

// restarts tells whether a container that has ended is started again.
func restarts(pod *v1.Pod, c *v1.Container, end *v1.ContainerStateTerminated) bool {
	return end.Reason == reasonRestartingAll || restartpolicy.ShouldRestart(pod, c, end.ExitCode)
}

func find(statuses []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range statuses {
		if statuses[i].Name == name {
			return &statuses[i]
		}
	}
	return nil
}

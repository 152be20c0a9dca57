package pods

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	"arhat.dev/aranya/pkg/edge/restartpolicy"
)

// killReason says why a container is killed; it decides about the grace period.
type killReason string

const (
	killStartupProbe  killReason = "StartupProbe"
	killLivenessProbe killReason = "LivenessProbe"
)

// kill is a container to be stopped.
type kill struct {
	instance *state.Container
	// message for the user, empty for the usual one.
	message string
	reason  killReason
}

// actions is what brings a pod from the state it is in to the desired one.
type actions struct {
	// killPod stops all containers and the sandbox.
	killPod bool
	// createSandbox makes a new sandbox, after killPod; attempt is its number.
	createSandbox bool
	attempt       uint32
	// initToStart, toStart and ephemeralToStart are indexes into the lists of the spec.
	initToStart, toStart, ephemeralToStart []int
	toKill                                 []kill
	// restartAll is a container that has exited in a way that makes all of the pod start anew. Nothing
	// else is done then.
	restartAll *state.Container
}

func (a *actions) none() bool {
	return !a.killPod && !a.createSandbox && a.restartAll == nil && len(a.initToStart)+len(a.toStart)+len(a.ephemeralToStart)+len(a.toKill) == 0
}

// restartContainer adds that a running container is to be replaced, unless it ends anyway.
func (a *actions) restartContainer(pod *v1.Pod, name string, k kill) {
	if slices.ContainsFunc(a.toKill, func(other kill) bool { return other.instance == k.instance }) {
		return
	}
	a.toKill = append(a.toKill, k)
	add := func(list *[]int, containers []v1.Container) {
		for i := range containers {
			if containers[i].Name == name && !slices.Contains(*list, i) {
				*list = append(*list, i)
				slices.Sort(*list)
			}
		}
	}
	add(&a.initToStart, pod.Spec.InitContainers)
	add(&a.toStart, pod.Spec.Containers)
}

// probeVerdict is what the probes of a running container say about its life.
type probeVerdict int

const (
	probesUnknown probeVerdict = iota // the startup probe has not been run yet
	probesPassed
	startupFailed
	livenessFailed
)

// computeActions compares a pod with the state of the runtime. It is pure: the same arguments give the
// same actions. verdict tells of a running container with startup or liveness probe how it fares.
func computeActions(pod *v1.Pod, st *state.Pod, verdict func(*v1.Container, *state.Container) probeVerdict) actions {
	if needed, attempt := sandboxNeeded(pod, st); needed {
		return actionsForNewSandbox(pod, st, attempt)
	}
	a := actions{attempt: st.Sandboxes[0].Metadata.GetAttempt(), restartAll: restartAllTrigger(pod, st)}
	if a.restartAll != nil {
		return a
	}
	for i := range pod.Spec.EphemeralContainers {
		if st.Find(pod.Spec.EphemeralContainers[i].Name) == nil { // never started again
			a.ephemeralToStart = append(a.ephemeralToStart, i)
		}
	}
	if !computeInit(pod, st, verdict, &a) {
		return a
	}
	computeRegular(pod, st, verdict, &a)
	return a
}

// sandboxNeeded tells whether the pod needs a new sandbox, and the number that would have.
func sandboxNeeded(pod *v1.Pod, st *state.Pod) (bool, uint32) {
	if len(st.Sandboxes) == 0 {
		return true, 0
	}
	newest := st.Sandboxes[0]
	ready := 0
	for _, s := range st.Sandboxes {
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			ready++
		}
	}
	switch {
	case ready > 1, newest.State != runtimeapi.PodSandboxState_SANDBOX_READY:
	case !pod.Spec.HostNetwork && !state.HasNetwork(newest):
	default:
		return false, 0
	}
	return true, newest.GetMetadata().GetAttempt() + 1
}

// actionsForNewSandbox begins the pod from the start, unless it has nothing left to do.
func actionsForNewSandbox(pod *v1.Pod, st *state.Pod, attempt uint32) actions {
	a := actions{killPod: true, createSandbox: true, attempt: attempt}
	if pod.Spec.RestartPolicy == v1.RestartPolicyNever && attempt != 0 && len(st.Containers) > 0 {
		a.createSandbox = false // it ran, or was about to, and may not run again
		return a
	}
	created := false
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		instance := st.Find(c.Name)
		created = created || instance != nil
		if instance != nil && instance.Exited() && instance.ExitCode == 0 && !restartpolicy.ShouldRestart(pod, c, 0) {
			continue
		}
		a.toStart = append(a.toStart, i)
	}
	if len(a.toStart) == 0 && created {
		a.createSandbox = false
		return a
	}
	if len(pod.Spec.InitContainers) > 0 {
		a.toStart = nil
		a.initToStart = []int{0}
	}
	return a
}

// computeInit decides about init containers and tells whether the regular ones may run. It goes
// backwards: that the last of them has been started means that those before it are done, even if the
// runtime has forgotten them.
func computeInit(pod *v1.Pod, st *state.Pod, verdict func(*v1.Container, *state.Container) probeVerdict, a *actions) bool {
	if len(pod.Spec.InitContainers) == 0 {
		return true
	}
	initialized := false
	for i := range pod.Spec.Containers {
		if c := st.FindActive(pod.Spec.Containers[i].Name); c != nil && !c.StartedAt.IsZero() {
			initialized = true
		}
	}
	seen := initialized // whether the container looked at comes before one that has been started
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		c := &pod.Spec.InitContainers[i]
		instance := st.FindActive(c.Name)
		sidecar := podutil.IsSidecar(c)
		switch {
		case instance == nil:
			if seen && sidecar {
				a.initToStart = append(a.initToStart, i)
			}
			continue
		case seen && !sidecar:
			continue
		}
		last := i == len(pod.Spec.InitContainers)-1
		done, failed := false, false
		if sidecar {
			done = sidecarActions(c, i, instance, verdict, a)
		} else {
			done, failed = initActions(pod, c, i, instance, a)
		}
		if failed {
			a.killPod, a.initToStart = true, nil
			return false
		}
		if done && last {
			initialized = true
		} else if done && !seen {
			a.initToStart = append(a.initToStart, i+1)
		}
		seen = true
	}
	if !seen {
		a.initToStart = append(a.initToStart, 0)
	}
	slices.Sort(a.initToStart)
	a.initToStart = slices.Compact(a.initToStart)
	return initialized
}

// initActions decides about the newest init container that was started.
func initActions(pod *v1.Pod, c *v1.Container, index int, instance *state.Container, a *actions) (done, failed bool) {
	switch instance.State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return false, false
	case runtimeapi.ContainerState_CONTAINER_CREATED: // it could not be started
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		if instance.ExitCode == 0 {
			return true, false
		}
		if !restartpolicy.ShouldRestart(pod, c, instance.ExitCode) {
			return false, true
		}
	default:
		if pod.Spec.RestartPolicy == v1.RestartPolicyNever {
			return false, true
		}
		a.toKill = append(a.toKill, kill{instance: instance, message: `Init container is in "unknown" state, try killing it before restart`})
	}
	a.initToStart = append(a.initToStart, index)
	return false, false
}

// sidecarActions keeps a restartable init container running, and tells whether it has come so far that
// the next container may start.
func sidecarActions(c *v1.Container, index int, instance *state.Container, verdict func(*v1.Container, *state.Container) probeVerdict, a *actions) bool {
	restart := func(message string, reason killReason) {
		if message != "" {
			a.toKill = append(a.toKill, kill{instance: instance, message: message, reason: reason})
		}
		a.initToStart = append(a.initToStart, index)
	}
	switch instance.State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
	case runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_EXITED:
		restart("", "")
		return false
	default:
		restart(`Init container is in "unknown" state, try killing it before restart`, "")
		return false
	}
	switch verdict(c, instance) {
	case startupFailed:
		restart(fmt.Sprintf("Init container %s failed startup probe", c.Name), killStartupProbe)
		return false
	case probesUnknown:
		return false
	case livenessFailed:
		restart(fmt.Sprintf("Init container %s failed liveness probe", c.Name), killLivenessProbe)
	default:
		if instance.Hash != podutil.HashContainer(c) {
			restart(fmt.Sprintf("Init container %s definition changed", c.Name), "")
		}
	}
	return true
}

// computeRegular decides about the containers proper.
func computeRegular(pod *v1.Pod, st *state.Pod, verdict func(*v1.Container, *state.Container) probeVerdict, a *actions) {
	keep := 0
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		instance := st.Find(c.Name)
		if instance == nil || !instance.Running() {
			if instance != nil && instance.Exited() && !restartpolicy.ShouldRestart(pod, c, instance.ExitCode) {
				continue
			}
			if instance != nil && instance.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
				a.toKill = append(a.toKill, kill{instance: instance, message: `Container is in "unknown" state, try killing it before restart`})
			}
			a.toStart = append(a.toStart, i)
			continue
		}
		k := kill{instance: instance}
		restart := mayRestart(pod, c)
		switch v := verdict(c, instance); {
		case instance.Hash != podutil.HashContainer(c):
			k.message = fmt.Sprintf("Container %s definition changed", c.Name)
			restart = true // whatever the policy: this is not the container that is wanted
		case v == livenessFailed:
			k.message, k.reason = fmt.Sprintf("Container %s failed liveness probe", c.Name), killLivenessProbe
		case v == startupFailed:
			k.message, k.reason = fmt.Sprintf("Container %s failed startup probe", c.Name), killStartupProbe
		default:
			keep++
			continue
		}
		if restart {
			k.message += ", will be restarted"
			a.toStart = append(a.toStart, i)
		}
		a.toKill = append(a.toKill, k)
	}
	if keep == 0 && len(a.toStart) == 0 { // nothing is left to do: sidecars must not keep the pod alive
		a.killPod, a.initToStart = true, nil
	}
}

// mayRestart tells whether a container that is killed for a failed probe is started again.
func mayRestart(pod *v1.Pod, c *v1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != v1.ContainerRestartPolicyNever
	}
	return pod.Spec.RestartPolicy != v1.RestartPolicyNever
}

package pods

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

const (
	created = runtimeapi.ContainerState_CONTAINER_CREATED
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
	lost    = runtimeapi.ContainerState_CONTAINER_UNKNOWN
)

func sandbox(id string, ready bool, attempt uint32) *runtimeapi.PodSandboxStatus {
	s := &runtimeapi.PodSandboxStatus{Id: id, Metadata: &runtimeapi.PodSandboxMetadata{Attempt: attempt},
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.2"}, State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}
	if ready {
		s.State = runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return s
}

// instance of the container of that name in sandbox "s".
func instance(pod *v1.Pod, name string, st runtimeapi.ContainerState, exitCode int32) *state.Container {
	c := &state.Container{ID: name + "-id", Name: name, SandboxID: "s", State: st, ExitCode: exitCode, Hash: podutil.HashContainer(podutil.FindContainer(pod, name))}
	if st != created {
		c.StartedAt = time.Unix(1, 0)
	}
	return c
}

func testPod(policy v1.RestartPolicy) *v1.Pod {
	pod := newPod("p", box("a"), box("b"))
	pod.Spec.RestartPolicy = policy
	return pod
}

func withInit(pod *v1.Pod, sidecarFirst bool) *v1.Pod {
	pod.Spec.InitContainers = []v1.Container{box("i0"), box("i1")}
	if sidecarFirst {
		pod.Spec.InitContainers[0].RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	}
	return pod
}

// want is actions in a form that can be compared.
type want struct {
	Kill, Sandbox      bool
	Attempt            uint32
	Init, Start, Debug []int
	Stop               []string
}

func flatten(a actions) want {
	w := want{Kill: a.killPod, Sandbox: a.createSandbox, Attempt: a.attempt, Init: a.initToStart, Start: a.toStart, Debug: a.ephemeralToStart}
	for _, k := range a.toKill {
		w.Stop = append(w.Stop, k.instance.Name+": "+k.message)
	}
	return w
}

func TestComputeActions(t *testing.T) {
	always, onFailure, never := v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever
	ready := func(pod *v1.Pod, containers ...*state.Container) *state.Pod {
		return &state.Pod{Sandboxes: []*runtimeapi.PodSandboxStatus{sandbox("s", true, 0)}, Containers: containers}
	}
	dead := func(containers ...*state.Container) *state.Pod {
		return &state.Pod{Sandboxes: []*runtimeapi.PodSandboxStatus{sandbox("s", false, 2)}, Containers: containers}
	}
	for _, tc := range []struct {
		name    string
		pod     *v1.Pod
		state   func(*v1.Pod) *state.Pod
		verdict probeVerdict
		want    want
	}{
		{name: "new pod", pod: testPod(always), state: func(*v1.Pod) *state.Pod { return &state.Pod{} },
			want: want{Kill: true, Sandbox: true, Start: []int{0, 1}}},
		{name: "new pod with init containers", pod: withInit(testPod(always), false), state: func(*v1.Pod) *state.Pod { return &state.Pod{} },
			want: want{Kill: true, Sandbox: true, Init: []int{0}}},
		{name: "all is well", pod: testPod(always), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod {
				return ready(p, instance(p, "a", running, 0), instance(p, "b", running, 0))
			}},
		{name: "one missing", pod: testPod(always), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "a", running, 0)) }, want: want{Start: []int{1}}},
		{name: "one created but not started", pod: testPod(never), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod {
				return ready(p, instance(p, "a", running, 0), instance(p, "b", created, 0))
			}, want: want{Start: []int{1}}},
		{name: "succeeded, always", pod: testPod(always), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "a", running, 0), instance(p, "b", exited, 0)) }, want: want{Start: []int{1}}},
		{name: "succeeded, on failure", pod: testPod(onFailure), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "a", running, 0), instance(p, "b", exited, 0)) }},
		{name: "failed, on failure", pod: testPod(onFailure), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "a", running, 0), instance(p, "b", exited, 1)) }, want: want{Start: []int{1}}},
		{name: "failed, never", pod: testPod(never), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "a", running, 0), instance(p, "b", exited, 1)) }},
		{name: "all done", pod: testPod(never),
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "a", exited, 0), instance(p, "b", exited, 1)) }, want: want{Kill: true}},
		{name: "unknown state", pod: testPod(always), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "a", running, 0), instance(p, "b", lost, 0)) },
			want:  want{Start: []int{1}, Stop: []string{`b: Container is in "unknown" state, try killing it before restart`}}},
		{name: "image changed", pod: testPod(never), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod {
				b := instance(p, "b", running, 0)
				b.Hash++
				return ready(p, instance(p, "a", running, 0), b)
			}, want: want{Start: []int{1}, Stop: []string{"b: Container b definition changed, will be restarted"}}},
		{name: "liveness", pod: testPod(always), verdict: livenessFailed,
			state: func(p *v1.Pod) *state.Pod {
				return ready(p, instance(p, "a", running, 0), instance(p, "b", running, 0))
			},
			want: want{Start: []int{0, 1}, Stop: []string{"a: Container a failed liveness probe, will be restarted", "b: Container b failed liveness probe, will be restarted"}}},
		{name: "liveness, never restarted", pod: testPod(never), verdict: livenessFailed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "a", running, 0), instance(p, "b", exited, 0)) },
			want:  want{Kill: true, Stop: []string{"a: Container a failed liveness probe"}}},
		{name: "sandbox died", pod: testPod(always),
			state: func(p *v1.Pod) *state.Pod { return dead(instance(p, "a", exited, 137), instance(p, "b", exited, 137)) },
			want:  want{Kill: true, Sandbox: true, Attempt: 3, Start: []int{0, 1}}},
		{name: "sandbox died, never restarted", pod: testPod(never),
			state: func(p *v1.Pod) *state.Pod { return dead(instance(p, "a", exited, 137)) }, want: want{Kill: true, Attempt: 3}},
		{name: "sandbox died before anything ran", pod: testPod(never), state: func(*v1.Pod) *state.Pod { return dead() },
			want: want{Kill: true, Sandbox: true, Attempt: 3, Start: []int{0, 1}}},
		{name: "sandbox died after all succeeded", pod: testPod(onFailure),
			state: func(p *v1.Pod) *state.Pod { return dead(instance(p, "a", exited, 0), instance(p, "b", exited, 0)) },
			want:  want{Kill: true, Attempt: 3}},
		{name: "no address", pod: testPod(always),
			state: func(*v1.Pod) *state.Pod {
				s := sandbox("s", true, 0)
				s.Network.Ip = ""
				return &state.Pod{Sandboxes: []*runtimeapi.PodSandboxStatus{s}}
			}, want: want{Kill: true, Sandbox: true, Attempt: 1, Start: []int{0, 1}}},
		{name: "first init container runs", pod: withInit(testPod(always), false),
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "i0", running, 0)) }},
		{name: "first init container done", pod: withInit(testPod(always), false),
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "i0", exited, 0)) }, want: want{Init: []int{1}}},
		{name: "all init containers done", pod: withInit(testPod(always), false),
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "i1", exited, 0)) }, want: want{Start: []int{0, 1}}},
		{name: "init container failed", pod: withInit(testPod(always), false),
			state: func(p *v1.Pod) *state.Pod {
				return ready(p, instance(p, "i1", exited, 1), instance(p, "i0", exited, 0))
			}, want: want{Init: []int{1}}},
		{name: "init container failed for good", pod: withInit(testPod(never), false),
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "i0", exited, 1)) }, want: want{Kill: true}},
		{name: "init containers forgotten", pod: withInit(testPod(always), false), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod {
				return ready(p, instance(p, "a", running, 0), instance(p, "b", running, 0))
			}},
		{name: "sidecar running", pod: withInit(testPod(always), true), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "i0", running, 0)) }, want: want{Init: []int{1}}},
		{name: "sidecar not started yet", pod: withInit(testPod(always), true), verdict: startupFailed,
			state: func(p *v1.Pod) *state.Pod { return ready(p, instance(p, "i0", running, 0)) },
			want:  want{Init: []int{0}, Stop: []string{"i0: Init container i0 failed startup probe"}}},
		{name: "sidecar ended while the pod runs", pod: withInit(testPod(always), true), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod {
				return ready(p, instance(p, "a", running, 0), instance(p, "b", running, 0), instance(p, "i1", exited, 0), instance(p, "i0", exited, 1))
			}, want: want{Init: []int{0}}},
		{name: "sidecar does not keep the pod alive", pod: withInit(testPod(never), true), verdict: probesPassed,
			state: func(p *v1.Pod) *state.Pod {
				return ready(p, instance(p, "a", exited, 0), instance(p, "b", exited, 0), instance(p, "i0", running, 0))
			}, want: want{Kill: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := flatten(computeActions(tc.pod, tc.state(tc.pod), func(*v1.Container, *state.Container) probeVerdict { return tc.verdict }))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEphemeralContainersStartOnce(t *testing.T) {
	pod := testPod(v1.RestartPolicyAlways)
	pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon(box("debug"))}}
	st := &state.Pod{Sandboxes: []*runtimeapi.PodSandboxStatus{sandbox("s", true, 0)},
		Containers: []*state.Container{instance(pod, "a", running, 0), instance(pod, "b", running, 0)}}
	passed := func(*v1.Container, *state.Container) probeVerdict { return probesPassed }
	if got := flatten(computeActions(pod, st, passed)); len(got.Debug) != 1 {
		t.Errorf("got %+v, want the ephemeral container started", got)
	}
	st.Containers = append(st.Containers, instance(pod, "debug", exited, 1))
	if got := computeActions(pod, st, passed); !got.none() {
		t.Errorf("got %+v, want nothing: ephemeral containers run once", got)
	}
}

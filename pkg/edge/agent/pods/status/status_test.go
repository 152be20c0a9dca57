package status

import (
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

var now = time.Unix(1_800_000_000, 500)

// probes that pass unless named.
type probes struct{ unready, unstarted string }

func (p probes) Started(c *v1.Container, _ string) bool { return c.Name != p.unstarted }
func (p probes) Ready(c *v1.Container, _ string) bool   { return c.Name != p.unready }

func testPod(policy v1.RestartPolicy, names ...string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 4}, Spec: v1.PodSpec{RestartPolicy: policy}}
	for _, name := range names {
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: name, Image: "img"})
	}
	return pod
}

func instance(name string, st runtimeapi.ContainerState, exitCode int32, restarts int) *state.Container {
	c := &state.Container{ID: name + "-id", Name: name, SandboxID: "s", State: st, ExitCode: exitCode, RestartCount: restarts, Image: "img", ImageRef: "sha256:1"}
	if st != runtimeapi.ContainerState_CONTAINER_CREATED {
		c.StartedAt = now.Add(-time.Minute)
	}
	if exitCode != 0 {
		c.Reason = "Error"
	} else if st == runtimeapi.ContainerState_CONTAINER_EXITED {
		c.Reason = "Completed"
	}
	return c
}

const (
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
	created = runtimeapi.ContainerState_CONTAINER_CREATED
)

func ready(containers ...*state.Container) *state.Pod {
	return &state.Pod{Containers: containers, Sandboxes: []*runtimeapi.PodSandboxStatus{{Id: "s",
		State: runtimeapi.PodSandboxState_SANDBOX_READY, Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.2"}}}}
}

func generate(pod *v1.Pod, st *state.Pod, change func(*Input)) *v1.PodStatus {
	in := Input{Pod: pod, State: st, Old: &v1.PodStatus{}, Probes: probes{}, Runtime: "containerd", Now: now,
		HostIPs: []string{"192.0.2.1"}, PodIPs: st.IPs(false)}
	if change != nil {
		change(&in)
	}
	return Generate(in)
}

func conditionOf(s *v1.PodStatus, t v1.PodConditionType) v1.PodCondition {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c
		}
	}
	return v1.PodCondition{}
}

// TestAddresses has a pod without a ready sandbox: what it had stays to be seen.
func TestAddresses(t *testing.T) {
	pod := testPod(v1.RestartPolicyNever, "a")
	old := &v1.PodStatus{PodIP: "10.0.0.1", PodIPs: []v1.PodIP{{IP: "10.0.0.1"}, {IP: "2001:db8::1"}}}
	notReady := ready(instance("a", exited, 0, 0))
	notReady.Sandboxes[0].State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	unconnected := ready(instance("a", running, 0, 0))
	unconnected.Sandboxes[0].Network = nil
	for name, tc := range map[string]struct {
		state *state.Pod
		old   *v1.PodStatus
		want  string
	}{
		"ready":                      {ready(instance("a", running, 0, 0)), old, "10.0.0.2"},
		"not ready":                  {notReady, old, "10.0.0.1 2001:db8::1"},
		"gone":                       {&state.Pod{}, old, "10.0.0.1 2001:db8::1"},
		"never had one":              {notReady, &v1.PodStatus{}, ""},
		"ready, without any address": {unconnected, old, ""},
	} {
		s := generate(pod, tc.state, func(in *Input) { in.Old = tc.old })
		var got []string
		for _, ip := range s.PodIPs {
			got = append(got, ip.IP)
		}
		first, _, _ := strings.Cut(tc.want, " ")
		if strings.Join(got, " ") != tc.want || s.PodIP != first {
			t.Errorf("%s: got %s and %v, want %s", name, s.PodIP, got, tc.want)
		}
	}
}

func TestPhases(t *testing.T) {
	always, onFailure, never := v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever
	withInit := func(pod *v1.Pod, sidecar bool) *v1.Pod {
		c := v1.Container{Name: "i"}
		if sidecar {
			c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
		}
		pod.Spec.InitContainers = []v1.Container{c}
		return pod
	}
	for _, tc := range []struct {
		name   string
		pod    *v1.Pod
		state  *state.Pod
		change func(*Input)
		want   v1.PodPhase
	}{
		{"nothing yet", testPod(always, "a"), &state.Pod{}, nil, v1.PodPending},
		{"created", testPod(always, "a"), ready(instance("a", created, 0, 0)), nil, v1.PodPending},
		{"running", testPod(always, "a", "b"), ready(instance("a", running, 0, 0), instance("b", running, 0, 0)), nil, v1.PodRunning},
		{"one missing", testPod(always, "a", "b"), ready(instance("a", running, 0, 0)), nil, v1.PodPending},
		{"about to be restarted", testPod(always, "a"), ready(instance("a", exited, 0, 0)), nil, v1.PodRunning},
		{"failed, on failure", testPod(onFailure, "a"), ready(instance("a", exited, 1, 0)), nil, v1.PodRunning},
		{"succeeded, on failure", testPod(onFailure, "a"), ready(instance("a", exited, 0, 0)), nil, v1.PodSucceeded},
		{"failed, never", testPod(never, "a", "b"), ready(instance("a", exited, 1, 0), instance("b", exited, 0, 0)), nil, v1.PodFailed},
		{"partly done, never", testPod(never, "a", "b"), ready(instance("a", exited, 1, 0), instance("b", running, 0, 0)), nil, v1.PodRunning},
		{"ended, always", testPod(always, "a"), ready(instance("a", exited, 137, 0)), func(in *Input) { in.Ended = true }, v1.PodFailed},
		{"ended well, always", testPod(always, "a"), ready(instance("a", exited, 0, 0)), func(in *Input) { in.Ended = true }, v1.PodSucceeded},
		{"init running", withInit(testPod(always, "a"), false), ready(instance("i", running, 0, 0)), nil, v1.PodPending},
		{"init failed, always", withInit(testPod(always, "a"), false), ready(instance("i", exited, 1, 0)), nil, v1.PodPending},
		{"init failed, never", withInit(testPod(never, "a"), false), ready(instance("i", exited, 1, 0)), nil, v1.PodFailed},
		{"init forgotten", withInit(testPod(always, "a"), false), ready(instance("a", running, 0, 0)), nil, v1.PodRunning},
		{"sidecar starting", withInit(testPod(always, "a"), true), ready(instance("i", running, 0, 0)), func(in *Input) { in.Probes = probes{unstarted: "i"} }, v1.PodPending},
		{"sidecar and main", withInit(testPod(always, "a"), true), ready(instance("a", running, 0, 0), instance("i", running, 0, 0)), nil, v1.PodRunning},
		{"main done, sidecar stopped", withInit(testPod(never, "a"), true), ready(instance("a", exited, 0, 0), instance("i", exited, 137, 0)), nil, v1.PodSucceeded},
		{"terminal stays terminal", testPod(always, "a"), ready(instance("a", running, 0, 0)), func(in *Input) { in.Old = &v1.PodStatus{Phase: v1.PodFailed} }, v1.PodFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := generate(tc.pod, tc.state, tc.change).Phase; got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestRunningPod(t *testing.T) {
	pod := testPod(v1.RestartPolicyAlways, "b", "a")
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v", ReadOnly: true}}
	pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue}, {Type: "example.com/gate", Status: v1.ConditionTrue}}
	pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	s := generate(pod, ready(instance("a", running, 0, 0), instance("b", running, 0, 2)), nil)
	if s.ObservedGeneration != 4 || s.HostIP != "192.0.2.1" || s.PodIP != "10.0.0.2" || len(s.PodIPs) != 1 || s.StartTime == nil || s.QOSClass != v1.PodQOSBestEffort {
		t.Errorf("got %v", s)
	}
	if s.ContainerStatuses[0].Name != "a" || s.ContainerStatuses[1].Name != "b" {
		t.Error("statuses are not sorted by name")
	}
	b := s.ContainerStatuses[1]
	if b.ContainerID != "containerd://b-id" || b.ImageID != "sha256:1" || b.RestartCount != 2 || !b.Ready || !*b.Started || b.State.Running == nil {
		t.Errorf("got %+v", b)
	}
	if len(b.VolumeMounts) != 1 || *b.VolumeMounts[0].RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
		t.Errorf("got %v", b.VolumeMounts)
	}
	for _, kind := range []v1.PodConditionType{v1.PodReadyToStartContainers, v1.PodInitialized, v1.ContainersReady, v1.PodReady} {
		if c := conditionOf(s, kind); c.Status != v1.ConditionTrue || c.ObservedGeneration != 4 || c.LastTransitionTime.IsZero() {
			t.Errorf("%s: got %v", kind, c)
		}
	}
	if conditionOf(s, v1.PodScheduled).Status != v1.ConditionTrue || conditionOf(s, "example.com/gate").Status != v1.ConditionTrue {
		t.Error("conditions of others are gone")
	}
	// The same input gives the same status, at whatever time.
	again := generate(pod, ready(instance("a", running, 0, 0), instance("b", running, 0, 2)), func(in *Input) { in.Old, in.Now = s, now.Add(time.Hour) })
	if !equality.Semantic.DeepEqual(s, again) {
		t.Errorf("a status that has not changed differs:\n%v\n%v", s, again)
	}
	unready := generate(pod, ready(instance("a", running, 0, 0), instance("b", running, 0, 2)), func(in *Input) { in.Old, in.Probes = s, probes{unready: "b"} })
	if c := conditionOf(unready, v1.PodReady); c.Status != v1.ConditionFalse || c.Reason != "ContainersNotReady" || c.Message != "containers with unready status: [b]" {
		t.Errorf("got %v", c)
	}
	pod.Status.Conditions = nil
	gated := generate(pod, ready(instance("a", running, 0, 0), instance("b", running, 0, 2)), nil)
	if c := conditionOf(gated, v1.PodReady); c.Reason != "ReadinessGatesNotReady" || !strings.Contains(c.Message, `"example.com/gate" does not exist`) {
		t.Errorf("got %v", c)
	}
	if conditionOf(gated, v1.ContainersReady).Status != v1.ConditionTrue {
		t.Error("the containers are ready whatever the gates say")
	}
}

func TestWaitingAndLastState(t *testing.T) {
	pod := testPod(v1.RestartPolicyAlways, "a")
	crash := func(in *Input) {
		in.Reasons = map[string]Reason{"a": {"CrashLoopBackOff", "back-off"}}
	}
	s := generate(pod, ready(instance("a", exited, 3, 1)), crash)
	a := s.ContainerStatuses[0]
	if a.State.Waiting == nil || a.State.Waiting.Reason != "CrashLoopBackOff" || a.LastTerminationState.Terminated.ExitCode != 3 || a.RestartCount != 1 || a.Ready || *a.Started {
		t.Errorf("got %+v", a)
	}
	older := instance("a", exited, 9, 0)
	older.ID = "older"
	a = generate(pod, ready(instance("a", running, 0, 1), older), crash).ContainerStatuses[0]
	if a.State.Running == nil || a.LastTerminationState.Terminated.ExitCode != 9 {
		t.Errorf("got %+v, want the reason ignored for a running container, and how the one before ended", a)
	}
	// The runtime has forgotten the instance before, but it had been reported.
	a = generate(pod, ready(instance("a", running, 0, 1)), func(in *Input) {
		in.Old = &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
			{Name: "a", ContainerID: "containerd://gone", RestartCount: 5, State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 8}}}}}
	}).ContainerStatuses[0]
	if a.LastTerminationState.Terminated == nil || a.LastTerminationState.Terminated.ExitCode != 8 || a.RestartCount != 5 {
		t.Errorf("got %+v", a)
	}
	// It ran and is gone altogether.
	a = generate(pod, ready(), func(in *Input) {
		in.Old = &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
			{Name: "a", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}}
	}).ContainerStatuses[0]
	if a.State.Waiting == nil || a.LastTerminationState.Terminated == nil || a.LastTerminationState.Terminated.Reason != "ContainerStatusUnknown" || a.RestartCount != 1 {
		t.Errorf("got %+v", a)
	}
	never := generate(testPod(v1.RestartPolicyNever, "a"), ready(instance("a", exited, 3, 0)), crash)
	if never.ContainerStatuses[0].State.Terminated == nil {
		t.Error("a container that is not started again does not wait")
	}
}

// Messages that containers have left share what a pod's status has room for.
func TestLimitMessages(t *testing.T) {
	long := strings.Repeat("é", 2048)
	message := func(s *v1.PodStatus, i int) string { return s.ContainerStatuses[i].State.Terminated.Message }
	for containers, want := range map[int]string{2: long, 3: long, 4: long[:3072], 5: long[:2456]} { // 2457 would cut the last é
		var names []string
		st := ready()
		for i := range containers {
			c := instance(strconv.Itoa(i), exited, 1, 0)
			c.Message = long
			names, st.Containers = append(names, c.Name), append(st.Containers, c)
		}
		s := generate(testPod(v1.RestartPolicyNever, names...), st, nil)
		for i := range containers {
			if got := message(s, i); got != want {
				t.Errorf("%d containers: %d bytes, want %d", containers, len(got), len(want))
			}
		}
	}

	// The former status, which others may read, is left alone.
	pod := testPod(v1.RestartPolicyNever, "0", "1", "2", "3", "4")
	old := &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "0", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Message: long}}}}}
	s := generate(pod, ready(), func(in *Input) { in.Old = old })
	if got := message(s, 0); len(got) != 2456 || message(old, 0) != long {
		t.Errorf("%d bytes of a former message, of which there are now %d", len(got), len(message(old, 0)))
	}
}

func TestInitContainers(t *testing.T) {
	pod := testPod(v1.RestartPolicyAlways, "a")
	pod.Spec.InitContainers = []v1.Container{{Name: "z"}, {Name: "y"}}
	s := generate(pod, ready(instance("z", exited, 0, 0)), nil)
	if s.InitContainerStatuses[0].Name != "z" || !s.InitContainerStatuses[0].Ready || s.InitContainerStatuses[1].State.Waiting.Reason != "PodInitializing" {
		t.Errorf("got %v", s.InitContainerStatuses)
	}
	if w := s.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "PodInitializing" {
		t.Errorf("got %v", s.ContainerStatuses)
	}
	if c := conditionOf(s, v1.PodInitialized); c.Status != v1.ConditionFalse || c.Reason != "ContainersNotInitialized" || c.Message != "containers with incomplete status: [y]" {
		t.Errorf("got %v", c)
	}
	s = generate(pod, ready(instance("a", running, 0, 0)), nil)
	if end := s.InitContainerStatuses[1].State.Terminated; end == nil || end.Reason != "Completed" {
		t.Errorf("got %v, want init containers that the runtime has forgotten taken as done", s.InitContainerStatuses)
	}
	if conditionOf(s, v1.PodInitialized).Status != v1.ConditionTrue {
		t.Error("not initialized though it runs")
	}
}

func TestStopSignal(t *testing.T) {
	for signal, want := range map[runtimeapi.Signal]v1.Signal{
		runtimeapi.Signal_SIGNAL_SIGUSR1: v1.SIGUSR1, runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3: v1.SIGRTMINPLUS3, runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS2: v1.SIGRTMAXMINUS2,
	} {
		if got := stopSignal(signal); got == nil || *got != want {
			t.Errorf("%s: got %v, want %s", signal, ptr.Deref(got, "nothing"), want)
		}
	}
	if got := stopSignal(runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT); got != nil {
		t.Errorf("got %s though the runtime did not say", *got)
	}
}

func TestFinal(t *testing.T) {
	pod := testPod(v1.RestartPolicyAlways, "a", "b")
	s := Final(pod, generate(pod, ready(instance("a", exited, 0, 0)), func(in *Input) { in.Ended = true }))
	if s.Phase != v1.PodFailed || s.ContainerStatuses[0].State.Terminated.ExitCode != 0 {
		t.Errorf("got %v", s)
	}
	if end := s.ContainerStatuses[1].State.Terminated; end == nil || end.Reason != "ContainerStatusUnknown" || end.ExitCode != 137 {
		t.Errorf("got %v", s.ContainerStatuses[1])
	}
	if conditionOf(s, v1.PodReady).Reason != "PodFailed" {
		t.Errorf("got %v", conditionOf(s, v1.PodReady))
	}
}

// TestFinalWithInit expects a container to wait for ever unless the init containers have let it begin.
func TestFinalWithInit(t *testing.T) {
	sidecar := v1.Container{Name: "j", RestartPolicy: ptr.To(v1.ContainerRestartPolicyAlways)}
	for name, tt := range map[string]struct {
		last  v1.Container
		state *state.Pod
		want  string // of init containers i and j and of container a: waiting, the exit code, or that it was lost
	}{
		"nothing started":    {v1.Container{Name: "j"}, ready(), "lost wait wait"},
		"first one failed":   {v1.Container{Name: "j"}, ready(instance("i", exited, 1, 0)), "1 wait wait"},
		"last one failed":    {v1.Container{Name: "j"}, ready(instance("j", exited, 1, 0), instance("i", exited, 0, 0)), "0 1 wait"},
		"all done":           {v1.Container{Name: "j"}, ready(instance("j", exited, 0, 0), instance("i", exited, 0, 0)), "0 0 lost"},
		"the second is lost": {v1.Container{Name: "j"}, ready(instance("a", exited, 3, 0), instance("i", exited, 0, 0)), "0 0 3"},
		"sidecar ended":      {sidecar, ready(instance("j", exited, 137, 0), instance("i", exited, 0, 0)), "0 137 wait"},
		"main ended":         {sidecar, ready(instance("a", exited, 2, 0), instance("j", exited, 137, 0), instance("i", exited, 0, 0)), "0 137 2"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod(v1.RestartPolicyNever, "a")
			pod.Spec.InitContainers = []v1.Container{{Name: "i"}, tt.last}
			s := Final(pod, generate(pod, tt.state, func(in *Input) { in.Ended = true }))
			var got []string
			for _, cs := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
				switch end := cs.State.Terminated; {
				case end == nil:
					got = append(got, "wait")
				case end.Reason == "ContainerStatusUnknown":
					got = append(got, "lost")
				default:
					got = append(got, strconv.Itoa(int(end.ExitCode)))
				}
			}
			if strings.Join(got, " ") != tt.want || !podutil.IsTerminal(s.Phase) {
				t.Errorf("got %v, phase %s; want %s", got, s.Phase, tt.want)
			}
		})
	}
}

func TestRejected(t *testing.T) {
	s := Rejected(testPod(v1.RestartPolicyAlways, "a"), "Why", "because", []string{"192.0.2.1"}, now)
	if s.Phase != v1.PodFailed || s.Reason != "Why" || s.Message != "Pod was rejected: because" || s.StartTime == nil || s.HostIP != "192.0.2.1" {
		t.Errorf("got %v", s)
	}
}

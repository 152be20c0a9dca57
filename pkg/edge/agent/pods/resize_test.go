package pods

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

func TestResizeThatFails(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		c := box("main")
		c.Resources = resources("1", "1", "64Mi")
		pod := newPod("p", c)
		a.run(pod)
		a.runtime.set(func() { a.runtime.updateErr = errors.New("no such cgroup") })
		pod = resized(pod, resources("2", "2", "64Mi"))
		a.run(pod)
		check := func(when string) {
			t.Helper()
			progress := conditionOf(a.status(pod), v1.PodResizeInProgress)
			if progress == nil || progress.Reason != v1.PodReasonError || progress.Message != "resize container main: no such cgroup" || progress.ObservedGeneration != 2 {
				t.Errorf("%s: got %v", when, progress)
			}
			cs := a.status(pod).ContainerStatuses[0]
			if cs.Resources.Limits.Cpu().String() != "1" || cs.AllocatedResources.Cpu().String() != "2" {
				t.Errorf("%s: in force %v, allocated %v", when, cs.Resources, cs.AllocatedResources)
			}
		}
		check("at first")
		a.restart()
		a.manager.ResendStatuses()
		check("after a restart of the agent")
		a.runtime.set(func() { a.runtime.updateErr = nil })
		time.Sleep(errorPeriod)
		synctest.Wait()
		if c := conditionOf(a.status(pod), v1.PodResizeInProgress); c != nil || a.status(pod).ContainerStatuses[0].Resources.Limits.Cpu().String() != "2" {
			t.Errorf("got %v, %v", c, a.status(pod).ContainerStatuses[0].Resources)
		}
		if n := a.runtime.count("StartContainer"); n != 1 {
			t.Errorf("the container was started %d times", n)
		}
		// A limit that is gone has to be said.
		pod = resized(pod, v1.ResourceRequirements{Requests: resources("2", "2", "64Mi").Requests})
		a.run(pod)
		a.runtime.set(func() {
			last := a.runtime.updates[len(a.runtime.updates)-1]
			if last.CpuQuota != -1 || last.MemoryLimitInBytes != -1 {
				t.Errorf("got quota %d, memory %d", last.CpuQuota, last.MemoryLimitInBytes)
			}
		})
		a.delete(pod, 0)
	})
}

// TestResizeOfPodsThatEnd has two pods wait for what they cannot have, and end so.
func TestResizeOfPodsThatEnd(t *testing.T) {
	for name, end := range map[string]func(a *agent, pod *v1.Pod){
		"by themselves": func(a *agent, pod *v1.Pod) { a.runtime.end(a.runtime.running()[pod.Name], 0) },
		"evicted":       func(a *agent, pod *v1.Pod) { a.manager.Evict(string(pod.UID), 1, "no room", true) },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				a.withCPU()
				cpu := map[string]string{"infeasible": "5", "too": "6", "deferred": "900m"}
				var pods []*v1.Pod
				for name := range cpu {
					pod := requesting(name, "300m")
					pod.Spec.RestartPolicy = v1.RestartPolicyNever
					a.run(pod)
					pods = append(pods, pod)
				}
				for i, pod := range pods {
					pods[i] = resized(pod, v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu[pod.Name])}})
					a.run(pods[i])
				}
				check := func(when string) {
					t.Helper()
					for _, pod := range pods {
						if s := a.status(pod); !podutil.IsTerminal(s.Phase) || conditionOf(s, v1.PodResizePending) != nil {
							t.Errorf("%s: %s: got phase %s, conditions %v", when, pod.Name, s.Phase, s.Conditions)
						}
					}
					next := requesting("next", "1")
					if r := a.manager.ledger.Claim(next); r != nil {
						t.Errorf("%s: %v", when, r)
					}
					a.manager.ledger.Release(string(next.UID))
				}
				for _, pod := range pods {
					end(a, pod)
				}
				a.settle()
				check("at first")
				a.restart()
				a.manager.ResendStatuses()
				check("after a restart of the agent")
				if n := a.sink.countEvents("Resize"); n != 0 {
					t.Errorf("%d events about the resize of pods that had ended", n)
				}
			})
		})
	}
}

// TestResizeOfThePod changes limits that containers have from their pod alone.
func TestResizeOfThePod(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		own := box("own")
		own.Resources = resources("1", "1", "64Mi")
		pod := newPod("p", box("shared"), own)
		limits := func(cpu string) *v1.ResourceRequirements {
			return &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}, Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}}
		}
		pod.Spec.Resources = limits("2")
		a.run(pod)
		if r := a.status(pod).Resources; r == nil || r.Limits.Cpu().String() != "2" {
			t.Errorf("got %v", r)
		}
		pod = pod.DeepCopy()
		pod.Generation++
		pod.Spec.Resources = limits("3")
		a.run(pod)
		a.runtime.set(func() {
			if n := len(a.runtime.updates); n != 1 || a.runtime.updates[0].CpuQuota != 300000 {
				t.Errorf("%d updates: %v, want one of the container without limits of its own", n, a.runtime.updates)
			}
		})
		if s := a.status(pod); s.Resources.Limits.Cpu().String() != "3" || s.AllocatedResources.Cpu().String() != "1" || conditionOf(s, v1.PodResizeInProgress) != nil {
			t.Errorf("got %v, allocated %v, conditions %v", s.Resources, s.AllocatedResources, s.Conditions)
		}
		a.delete(pod, 0)
	})
}

// TestResizeOfAnInitContainer changes one while it runs.
func TestResizeOfAnInitContainer(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		init := box("init")
		init.Resources = resources("1", "1", "64Mi")
		pod := newPod("p", box("main"))
		pod.Spec.InitContainers = []v1.Container{init}
		a.run(pod)
		pod = pod.DeepCopy()
		pod.Generation++
		pod.Spec.InitContainers[0].Resources = resources("1", "3", "64Mi")
		a.run(pod)
		a.runtime.set(func() {
			if n := len(a.runtime.updates); n != 1 || a.runtime.updates[0].CpuQuota != 300000 {
				t.Errorf("%d updates: %v, want one of the init container", n, a.runtime.updates)
			}
		})
		s := a.status(pod)
		if r := s.InitContainerStatuses[0].Resources; r == nil || r.Limits.Cpu().String() != "3" || conditionOf(s, v1.PodResizeInProgress) != nil {
			t.Errorf("got %v, conditions %v", r, s.Conditions)
		}
		a.delete(pod, 0)
	})
}

func TestNotEnforced(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.runtime.unenforced = []string{"resources.limits", "capabilities"}
		c := box("main")
		c.Lifecycle = &v1.Lifecycle{StopSignal: ptr.To(v1.SIGUSR1)}
		pod := newPod("p", c)
		a.run(pod)
		want := "Warning NotEnforced spec.containers{main}: The runtime fake of this device does not enforce resources.limits, capabilities, lifecycle.stopSignal"
		a.sink.mu.Lock()
		if !slices.Contains(a.sink.events, want) {
			t.Errorf("got %q", a.sink.events)
		}
		a.sink.mu.Unlock()
		a.delete(pod, 0)
	})
}

// TestPodInForce has a container that has ended, and knows of no change since, precede one that runs.
func TestPodInForce(t *testing.T) {
	before, after := resources("1", "1", "64Mi"), resources("2", "2", "64Mi")
	pod := newPod("p", box("main"))
	pod.Spec.InitContainers = []v1.Container{box("init")}
	p := &pass{pod: pod, w: &worker{}, st: &state.Pod{Containers: []*state.Container{instance(pod, "init", exited, 0), instance(pod, "main", running, 0)}}}
	p.w.resize.inForce = map[string]inForce{"init-id": {pod: &before}, "main-id": {pod: &after}}
	if got := p.podInForce(); got.Limits.Cpu().String() != "2" {
		t.Errorf("got %v, want what the container that runs was last given", got)
	}
}

// TestRestartAllBySidecar has a sidecar whose exit makes a container start anew that would not by itself.
func TestRestartAllBySidecar(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		trigger := box("trigger")
		trigger.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
		trigger.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
		pod := newPod("p", box("main"))
		pod.Spec.InitContainers = []v1.Container{trigger}
		pod.Spec.RestartPolicy = v1.RestartPolicyNever
		a.run(pod)
		main := a.runtime.running()["main"]
		a.runtime.end(a.runtime.running()["trigger"], 42)
		a.settle()
		a.settle()
		if now := a.runtime.running(); now["trigger"] == "" || now["main"] == "" || now["main"] == main {
			t.Errorf("got %v, want both anew", now)
		}
		s := a.status(pod)
		if cs := s.ContainerStatuses[0]; cs.RestartCount != 1 || cs.LastTerminationState.Terminated == nil || cs.LastTerminationState.Terminated.Reason != "RestartingAllContainers" {
			t.Errorf("got %v", cs)
		}
		if cs := s.InitContainerStatuses[0]; cs.RestartCount != 1 || cs.LastTerminationState.Terminated == nil || cs.LastTerminationState.Terminated.ExitCode != 42 {
			t.Errorf("got %v", cs)
		}
		if s.Phase != v1.PodRunning {
			t.Errorf("got phase %s", s.Phase)
		}
		a.delete(pod, 0)
	})
}

// TestRestartAllBackOff has a container that makes its pod begin anew again and again.
func TestRestartAllBackOff(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		trigger := box("trigger")
		trigger.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
		trigger.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
		pod := newPod("p", trigger, box("other"))
		pod.Spec.RestartPolicy = v1.RestartPolicyNever
		a.run(pod)
		for i, wait := range []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second} {
			other := a.runtime.running()["other"]
			a.runtime.end(a.runtime.running()["trigger"], 42)
			if wait > 0 {
				time.Sleep(wait - 3*time.Second)
				synctest.Wait()
				cs := a.status(pod).ContainerStatuses[1]
				if a.runtime.running()["other"] != other || cs.State.Waiting == nil || cs.State.Waiting.Reason != reasonCrashLoop {
					t.Fatalf("exit %d: all began anew in less than %v, or the status is %+v", i, wait, cs)
				}
				if c := conditionOf(a.status(pod), v1.AllContainersRestarting); c == nil || c.Status != v1.ConditionTrue {
					t.Errorf("exit %d: got condition %v", i, c)
				}
				if i == 3 {
					a.restart() // which forgets the back-off
				}
			}
			time.Sleep(8 * time.Second)
			synctest.Wait()
			if now := a.runtime.running(); now["other"] == other || now["trigger"] == "" || now["other"] == "" {
				t.Fatalf("exit %d: got %v, want both anew", i, now)
			}
			a.manager.ResendStatuses()
			for _, cs := range a.status(pod).ContainerStatuses {
				if int(cs.RestartCount) != i+1 || cs.LastTerminationState.Terminated == nil {
					t.Errorf("exit %d: %s has %d restarts, last state %v", i, cs.Name, cs.RestartCount, cs.LastTerminationState)
				}
			}
			if s := a.status(pod); s.Phase != v1.PodRunning || conditionOf(s, v1.AllContainersRestarting) != nil {
				t.Errorf("exit %d: got phase %s, conditions %v", i, s.Phase, s.Conditions)
			}
		}
		if a.runtime.count("RunPodSandbox") != 1 {
			t.Error("the pod got another sandbox")
		}
		a.delete(pod, 0)
	})
}

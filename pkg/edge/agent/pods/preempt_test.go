package pods

import (
	"errors"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// requesting is a pod with one container, of its own name.
func requesting(name, cpu string) *v1.Pod {
	pod := newPod(name, box(name))
	pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](600)
	pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}
	return pod
}

func critical(name, cpu string) *v1.Pod {
	pod := requesting(name, cpu)
	pod.Spec.PriorityClassName, pod.Spec.Priority = "system-node-critical", ptr.To[int32](2000001000)
	return pod
}

// withCPU starts the agent again with one CPU for pods.
func (a *agent) withCPU() {
	a.stop()
	a.allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}
	a.start()
}

// TestCriticalPodPreempts sends a critical pod to a device that is full.
func TestCriticalPodPreempts(t *testing.T) {
	for name, run := range map[string]func(a *agent, pod *v1.Pod){
		"of the cluster": func(a *agent, pod *v1.Pod) { a.run(pod) },
		"static": func(a *agent, pod *v1.Pod) {
			pod.UID, pod.Spec.Priority = "0123456789abcdef0123456789abcdef", nil
			a.manager.SetStatic([]*v1.Pod{pod})
			a.settle()
		},
		"the agent started again": func(a *agent, pod *v1.Pod) {
			a.run(pod)
			a.restart()
			a.manager.ResendStatuses()
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				a.withCPU()
				small, large := requesting("small", "400m"), requesting("large", "600m")
				a.run(small)
				a.run(large)
				stopped := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = stopped })
				pod := critical("critical", "500m")
				run(a, pod)
				if s := a.status(pod); s.Phase != v1.PodPending || a.runtime.running()["large"] == "" || !slices.Contains(a.runtime.stops, 600) {
					t.Errorf("while the other stops: got %v, grace periods %v", s, a.runtime.stops)
				}
				if !a.sink.hasEvent("Warning Preempting : Preempted in order to admit critical pod") {
					t.Errorf("got events %v", a.sink.events)
				}
				close(stopped)
				a.settle()
				if now := a.runtime.running(); len(now) != 2 || now["small"] == "" || now["critical"] == "" || a.status(pod).Phase != v1.PodRunning {
					t.Errorf("running %v, status %v", now, a.status(pod))
				}
				preempted := func() {
					t.Helper()
					s := a.status(large)
					i := slices.IndexFunc(s.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.DisruptionTarget })
					if s.Phase != v1.PodFailed || s.Reason != "Preempting" || s.Message != "Preempted in order to admit critical pod" ||
						i < 0 || s.Conditions[i].Reason != v1.PodReasonTerminationByKubelet {
						t.Errorf("got %v", s)
					}
				}
				preempted()
				a.restart()
				a.manager.ResendStatuses()
				preempted()
			})
		})
	}
}

// A pod that is on its way out is waited for, and no other is stopped for its sake.
func TestCriticalPodWaitsForOneThatLeaves(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.withCPU()
		leaves, stays := requesting("leaves", "500m"), requesting("stays", "500m")
		a.run(leaves)
		a.run(stays)
		stopped := make(chan struct{})
		a.runtime.set(func() { a.runtime.stopBlock = stopped })
		a.delete(leaves, 600)
		pod := critical("critical", "500m")
		a.run(pod)
		close(stopped)
		a.settle()
		if now := a.runtime.running(); len(now) != 2 || now["stays"] == "" || now["critical"] == "" {
			t.Errorf("running %v", now)
		}
	})
}

// A critical pod that has to go while it waits gives back what was kept for it, and so does one that is preempted
// by another then.
func TestCriticalPodGoesWhileItWaits(t *testing.T) {
	for name, leave := range map[string]func(a *agent, pod *v1.Pod){
		"deleted": func(a *agent, pod *v1.Pod) {
			a.manager.DeletePod(&edgeapi.DeletePod{Uid: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name})
		},
		"preempted": func(a *agent, _ *v1.Pod) {
			more := critical("more", "1")
			more.Spec.Priority = ptr.To[int32](2000002000)
			a.run(more)
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				a.withCPU()
				a.run(requesting("former", "1"))
				stopped := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = stopped })
				pod := critical("critical", "1")
				a.run(pod)
				leave(a, pod)
				a.settle()
				close(stopped)
				a.settle()
				if now := a.runtime.running(); now["former"] != "" || now["critical"] != "" {
					t.Errorf("running %v", now)
				}
				if name == "deleted" && a.manager.ledger.Claim(requesting("next", "1")) != nil {
					t.Error("the room is kept for nobody")
				}
				if name == "preempted" && (a.status(pod).Reason != "Preempting" || a.runtime.running()["more"] == "") {
					t.Errorf("got %v, running %v", a.status(pod), a.runtime.running())
				}
			})
		})
	}
}

// A critical pod that runs when the agent starts, and for which others have to go by now, is probed meanwhile.
func TestCriticalPodIsProbedWhileItWaits(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.withCPU()
		other, pod := requesting("other", "500m"), critical("critical", "500m")
		pod.CreationTimestamp = metav1.NewTime(time.Now().Add(time.Hour)) // the younger one goes without
		pod.Spec.Containers[0].ReadinessProbe = &v1.Probe{
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check"}}}, PeriodSeconds: 1, FailureThreshold: 1,
		}
		a.run(other)
		a.run(pod)
		before := a.runtime.running()
		a.stop()
		a.allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("600m")}
		stopped := make(chan struct{})
		a.runtime.set(func() { a.runtime.stopBlock = stopped })
		a.start()
		a.settle()
		a.manager.ResendStatuses()
		if s := a.status(pod); a.runtime.running()["other"] == "" || conditionStatus(s, v1.PodReady) != v1.ConditionTrue {
			t.Errorf("while the other stops: running %v, status %v", a.runtime.running(), s)
		}
		a.runtime.set(func() { a.runtime.execErr = utilexec.CodeExitError{Err: errors.New("no"), Code: 1} })
		a.settle()
		if s := a.status(pod); conditionStatus(s, v1.PodReady) != v1.ConditionFalse {
			t.Errorf("its probe fails while the other stops: got %v", s)
		}
		close(stopped)
		a.settle()
		if now := a.runtime.running(); len(now) != 1 || now["critical"] != before["critical"] {
			t.Errorf("running %v, before %v", now, before)
		}
	})
}

// A critical pod for which no room can be made fails as others do, and nothing is stopped for it.
func TestCriticalPodWithoutRoom(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.withCPU()
		a.run(requesting("other", "500m"))
		pod := critical("critical", "2")
		a.run(pod)
		if s := a.status(pod); s.Phase != v1.PodFailed || s.Reason != "OutOfcpu" || len(a.runtime.running()) != 1 {
			t.Errorf("got %v, running %v", s, a.runtime.running())
		}
	})
}

package pods

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestUnknownPodIsReportedRemoved(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("nobody", box("main"))
		a.runtime.set(func() { a.runtime.down = errors.New("down") })
		a.delete(pod, 1)
		if a.gone(pod) {
			t.Error("removal was confirmed though the runtime could not be asked")
		}
		a.runtime.set(func() { a.runtime.down = nil })
		a.settle()
		if !a.gone(pod) {
			t.Error("removal was not confirmed")
		}
		if len(a.manager.Digests()) != 0 {
			t.Error("the pod is still held")
		}
	})
}

func TestShorterGraceInterrupts(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("slow", box("main"))
		a.run(pod)
		a.runtime.set(func() { a.runtime.stopBlock = make(chan struct{}) })
		a.delete(pod, 300)
		a.delete(pod, 600) // longer: has no effect
		if a.gone(pod) {
			t.Fatal("gone too early")
		}
		block := a.runtime.stopBlock
		a.runtime.set(func() { a.runtime.stopBlock = nil })
		a.delete(pod, 0)
		close(block)
		if !a.gone(pod) {
			t.Error("the shorter grace period did not take effect")
		}
		if got := a.runtime.stops; len(got) != 2 || got[0] != 300 || got[1] != minGrace {
			t.Errorf("got grace periods %v", got)
		}
	})
}

// TestDeletionLetsAStartFinish deletes a pod while the runtime starts its container: the call goes on, for
// a while.
func TestDeletionLetsAStartFinish(t *testing.T) {
	for name, tt := range map[string]struct {
		takes  time.Duration
		starts int
	}{
		"soon":  {startPatience / 2, 1},
		"never": {time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.startBlock = block })
				pod := newPod("p", box("main"))
				a.run(pod)
				release := time.AfterFunc(tt.takes, func() { close(block) })
				defer release.Stop()
				a.delete(pod, 0)
				if a.gone(pod) {
					t.Error("gone while its container is being started")
				}
				time.Sleep(startPatience)
				a.settle()
				if !a.gone(pod) || a.runtime.count("StartContainer") != tt.starts {
					t.Errorf("gone: %t, starts that were let finish: %d, want true and %d", a.gone(pod), a.runtime.count("StartContainer"), tt.starts)
				}
			})
		})
	}
}

// TestTransitionAfterStopping has a pod take its time to stop: it was ready until it had.
func TestTransitionAfterStopping(t *testing.T) {
	for name, stop := range map[string]func(a *agent, pod *v1.Pod){
		"deleted": func(a *agent, pod *v1.Pod) { a.delete(pod, 300) },
		"evicted": func(a *agent, pod *v1.Pod) { a.manager.Evict(string(pod.UID), 300, "no room", true) },
		"overdue": func(_ *agent, pod *v1.Pod) { time.Sleep(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("slow", box("main"))
				pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](60)
				a.run(pod)
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = block })
				stop(a, pod)
				time.Sleep(5 * time.Minute)
				stopped := metav1.Now().Rfc3339Copy()
				close(block)
				a.settle()
				s := a.status(pod)
				if s.Phase != v1.PodFailed {
					t.Fatalf("got %v, want it failed", s)
				}
				for _, c := range s.Conditions {
					if c.Type != v1.PodInitialized && c.LastTransitionTime.Before(&stopped) {
						t.Errorf("got %v, want a transition when it had stopped, at %v", c, stopped)
					}
				}
			})
		})
	}
}

// TestReadinessWhileStopping has containers that take their time to stop: those whose readiness probe fails
// must be seen to be unready, and one that says that it is ready still counts.
func TestReadinessWhileStopping(t *testing.T) {
	handler := v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}
	sidecar := box("sidecar")
	sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	sidecar.ReadinessProbe = &v1.Probe{ProbeHandler: handler, PeriodSeconds: 2, FailureThreshold: 1}
	main := box("main")
	main.StartupProbe = &v1.Probe{ProbeHandler: handler, PeriodSeconds: 1, FailureThreshold: 1}
	main.ReadinessProbe = sidecar.ReadinessProbe
	main.LivenessProbe = sidecar.ReadinessProbe
	for name, stop := range map[string]func(a *agent, pod *v1.Pod){
		"deleted": func(a *agent, pod *v1.Pod) { a.delete(pod, 300) },
		"evicted": func(a *agent, pod *v1.Pod) { a.manager.Evict(string(pod.UID), 300, "no room", false) },
		"overdue": func(_ *agent, pod *v1.Pod) { time.Sleep(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("slow", main)
				pod.Spec.InitContainers = []v1.Container{sidecar}
				if name == "overdue" {
					pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](60)
				}
				a.run(pod)
				ready := func() v1.ConditionStatus { return conditionStatus(a.status(pod), v1.PodReady) }
				if ready() != v1.ConditionTrue {
					t.Fatalf("got %v before it is stopped", a.status(pod))
				}
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = block })
				stop(a, pod)
				time.Sleep(10 * time.Second)
				a.settle()
				if s := a.status(pod); ready() != v1.ConditionTrue || s.Phase != v1.PodRunning {
					t.Errorf("got %v while it stops and its probes succeed", s)
				}
				asked := a.runtime.count("ExecSync")
				a.runtime.set(func() { a.runtime.execErr = utilexec.CodeExitError{Err: errors.New("no"), Code: 1} })
				time.Sleep(4 * time.Second)
				synctest.Wait()
				s := a.status(pod)
				if ready() != v1.ConditionFalse || s.ContainerStatuses[0].Ready || s.InitContainerStatuses[0].Ready || s.Phase != v1.PodRunning {
					t.Errorf("got %v while it stops and its probes fail", s)
				}
				if !*s.ContainerStatuses[0].Started || s.ContainerStatuses[0].State.Running == nil {
					t.Errorf("got %v, want a container that runs and has started", s.ContainerStatuses[0])
				}
				if n := a.runtime.count("ExecSync") - asked; n != 4 {
					t.Errorf("asked %d times in 4 s, want twice for each readiness probe and no other", n)
				}
				for _, event := range a.sink.events {
					if strings.Contains(event, "Liveness") {
						t.Error("asked whether a container that is being stopped is alive")
					}
				}
				a.runtime.set(func() { a.runtime.stopBlock = nil })
				close(block)
				a.settle()
				if s := a.status(pod); !a.gone(pod) && s.Phase != v1.PodFailed {
					t.Errorf("got %v after it was stopped", s)
				}
			})
		})
	}
}

func conditionStatus(s *v1.PodStatus, t v1.PodConditionType) v1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func TestDeletionSurvivesRestart(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("going", box("main"))
		a.run(pod)
		a.runtime.set(func() { a.runtime.stopBlock = make(chan struct{}) })
		a.delete(pod, 300)
		a.stop()
		a.runtime.set(func() { a.runtime.stopBlock = nil })
		a.start()
		a.settle()
		if !a.gone(pod) {
			t.Error("the removal was forgotten")
		}
	})
}

// TestGenerationOfDeletion deletes a pod that takes its time to stop: that its deletion was seen is told at once.
func TestGenerationOfDeletion(t *testing.T) {
	for name, tt := range map[string]struct {
		sent, want int64
		restart    bool
	}{
		"told":                            {sent: 2, want: 2},
		"told before the agent's restart": {sent: 2, want: 2, restart: true},
		"older aranya":                    {sent: 0, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("slow", box("main"))
				a.run(pod)
				check := func(when string, phase v1.PodPhase) {
					t.Helper()
					s := a.status(pod)
					if s.Phase != phase || s.ObservedGeneration != tt.want {
						t.Errorf("%s: got %s with observedGeneration %d, want %s with %d", when, s.Phase, s.ObservedGeneration, phase, tt.want)
					}
					for _, c := range s.Conditions {
						if c.ObservedGeneration != tt.want {
							t.Errorf("%s: got %v, want observedGeneration %d", when, c, tt.want)
						}
					}
				}
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = block })
				a.manager.DeletePod(&edgeapi.DeletePod{Uid: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, GracePeriodSeconds: 300, Generation: tt.sent})
				a.settle()
				check("while it stops", v1.PodRunning)
				if tt.restart {
					a.restart()
				}
				close(block)
				a.settle()
				check("in the end", v1.PodFailed)
			})
		})
	}
}

func TestDeletionTimestamp(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		a.run(pod)
		pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		pod.DeletionGracePeriodSeconds = ptr.To[int64](1)
		a.run(pod)
		if !a.gone(pod) {
			t.Error("a pod with a deletionTimestamp was not removed")
		}
	})
}

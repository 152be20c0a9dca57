package pods

import (
	"errors"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// overdueAfter is when the pods of these tests have been active for longer than they may.
const overdueAfter = 30 * time.Second

// stoppable is a pod whose container ends well when it is stopped.
func (a *agent) stoppable(policy v1.RestartPolicy) *v1.Pod {
	a.runtime.set(func() { a.runtime.stopExit = 0 })
	pod := newPod("p", box("main"))
	pod.Spec.RestartPolicy = policy
	return pod
}

func evictForRoom(a *agent, pod *v1.Pod) { a.manager.Evict(string(pod.UID), 300, "no room", true) }

func exceedDeadline(*agent, *v1.Pod) { time.Sleep(overdueAfter) }

// expectEnd checks how a pod has failed, and whether it is said to be not its own fault.
func (a *agent) expectEnd(when string, pod *v1.Pod, reason string) {
	a.t.Helper()
	s := a.status(pod)
	disrupted := slices.ContainsFunc(s.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.DisruptionTarget })
	if s.Phase != v1.PodFailed || s.Reason != reason || disrupted != (reason == "Evicted") {
		a.t.Errorf("%s: got %s %q, DisruptionTarget: %t; want Failed %q", when, s.Phase, s.Reason, disrupted, reason)
	}
}

// TestStoppedPodsHaveFailed has the device stop pods whose containers end well. The cloud may not have heard of it
// yet when the agent starts anew, or when they are deleted.
func TestStoppedPodsHaveFailed(t *testing.T) {
	for name, tt := range map[string]struct {
		stop   func(a *agent, pod *v1.Pod)
		reason string
	}{
		"overdue": {exceedDeadline, "DeadlineExceeded"},
		"evicted": {evictForRoom, "Evicted"},
	} {
		for _, policy := range []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever} {
			t.Run(name+" "+string(policy), func(t *testing.T) {
				simulate(t, func(t *testing.T, a *agent) {
					pod := a.stoppable(policy)
					pod.Spec.ActiveDeadlineSeconds = ptr.To(int64(overdueAfter.Seconds()))
					a.run(pod)
					tt.stop(a, pod)
					a.settle()
					a.expectEnd("stopped", pod, tt.reason)
					a.restart()
					a.manager.ResendStatuses()
					a.expectEnd("after a restart of the agent", pod, tt.reason)
					a.delete(pod, 30)
					a.expectEnd("deleted", pod, tt.reason)
				})
			})
		}
	}
}

// TestDeletedWhileStopped deletes pods that the device is about to stop, and whose containers end well.
func TestDeletedWhileStopped(t *testing.T) {
	for name, tt := range map[string]struct {
		stop   func(a *agent, pod *v1.Pod)
		reason string
	}{
		"overdue": {exceedDeadline, "DeadlineExceeded"},
		"evicted": {evictForRoom, "Evicted"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := a.stoppable(v1.RestartPolicyNever)
				pod.Spec.ActiveDeadlineSeconds = ptr.To(int64(overdueAfter.Seconds()))
				pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](300)
				a.run(pod)
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = block })
				tt.stop(a, pod)
				a.settle()
				if s := a.status(pod); s.Phase != v1.PodRunning {
					t.Errorf("got %s while it stops, want Running", s.Phase)
				}
				a.delete(pod, 30)
				close(block)
				a.settle()
				if !a.gone(pod) {
					t.Error("it is not gone")
				}
				a.expectEnd("deleted", pod, tt.reason)
			})
		})
	}
}

// TestConditionsOfStoppedPods expects the conditions of a pod that the device has stopped to say that it has failed,
// whether its containers have ended well or never begun.
func TestConditionsOfStoppedPods(t *testing.T) {
	for name, stop := range map[string]func(a *agent, pod *v1.Pod){"overdue": exceedDeadline, "evicted": evictForRoom} {
		for when, createErr := range map[string]error{"ended well": nil, "never begun": errors.New("bad mount")} {
			t.Run(name+", "+when, func(t *testing.T) {
				simulate(t, func(t *testing.T, a *agent) {
					a.runtime.set(func() { a.runtime.createErr = createErr })
					pod := a.stoppable(v1.RestartPolicyNever)
					pod.Spec.ActiveDeadlineSeconds = ptr.To(int64(overdueAfter.Seconds()))
					a.run(pod)
					stop(a, pod)
					a.settle()
					for _, c := range a.status(pod).Conditions {
						switch c.Type {
						case v1.PodReady, v1.ContainersReady:
							if c.Status != v1.ConditionFalse || c.Reason != "PodFailed" {
								t.Errorf("got %v", c)
							}
						case v1.PodInitialized:
							if c.Status != v1.ConditionTrue || c.Reason != "" {
								t.Errorf("got %v", c)
							}
						}
					}
				})
			})
		}
	}
}

// TestContainersOfStoppedPods has pods stopped while one of their containers cannot be created: nothing is about to
// create it any more.
func TestContainersOfStoppedPods(t *testing.T) {
	for name, stop := range map[string]func(a *agent, pod *v1.Pod){"overdue": exceedDeadline, "evicted": evictForRoom} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				a.runtime.set(func() { a.runtime.createErr = errors.New("bad mount") })
				pod := a.stoppable(v1.RestartPolicyNever)
				pod.Spec.ActiveDeadlineSeconds = ptr.To(int64(overdueAfter.Seconds()))
				a.run(pod)
				stop(a, pod)
				a.settle()
				check := func(when string) {
					t.Helper()
					cs := a.status(pod).ContainerStatuses[0]
					if end := cs.State.Terminated; end == nil || end.Reason != "ContainerStatusUnknown" || end.ExitCode != 137 || cs.Ready || cs.RestartCount != 0 {
						t.Errorf("%s: got %v", when, cs)
					}
					_, _, err := a.manager.ContainerLog(string(pod.UID), "main", false)
					if err == nil || err.Error() != `container "main" in pod "p" is terminated` {
						t.Errorf("%s: got %v when asked for its log", when, err)
					}
				}
				check("stopped")
				time.Sleep(2 * resyncPeriod)
				a.restart()
				a.manager.ResendStatuses()
				check("after a restart of the agent")
			})
		})
	}
}

package pods

import (
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestOutlastsPowerCut(t *testing.T) {
	once := box("once")
	once.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
	retried := once
	retried.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{
		Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	for name, tt := range map[string]struct {
		policy     v1.RestartPolicy
		containers []v1.Container
		phase      v1.PodPhase
		want       bool
	}{
		"runs always":                    {v1.RestartPolicyAlways, nil, v1.PodRunning, false},
		"ran, and was stopped for good":  {v1.RestartPolicyAlways, nil, v1.PodFailed, true},
		"runs once":                      {v1.RestartPolicyNever, nil, v1.PodRunning, true},
		"runs until it succeeds":         {v1.RestartPolicyOnFailure, nil, v1.PodRunning, true},
		"has a container that runs once": {v1.RestartPolicyAlways, []v1.Container{once}, v1.PodRunning, true},
		"has one that may ask for more":  {v1.RestartPolicyAlways, []v1.Container{retried}, v1.PodRunning, true},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod("p", append(tt.containers, box("main"))...)
			pod.Spec.RestartPolicy = tt.policy
			if got := outlastsPowerCut(pod, &v1.PodStatus{Phase: tt.phase}); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

// What comes from the cloud does not wait for a slow disk.
func TestSlowDiskHoldsUpNobody(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.stop()
		saved := make(chan struct{})
		a.saving = func() { <-saved }
		a.start()
		pod := newPod("p", box("main"))
		a.run(pod)
		w := a.manager.worker(string(pod.UID))
		if !w.mu.TryLock() {
			t.Error("the worker is locked while its status is written")
		} else {
			w.mu.Unlock()
			pod.Labels["changed"] = "yes"
			a.run(pod)
			a.manager.ResendStatuses()
		}
		close(saved)
		a.settle()
		synctest.Wait()
		if s := a.status(pod); s.Phase != v1.PodRunning {
			t.Errorf("got %v when it was written", s)
		}
	})
}

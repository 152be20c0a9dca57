package pods

import (
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
)

func TestOutlastsPowerCut(t *testing.T) {
	for name, tt := range map[string]struct {
		policy v1.RestartPolicy
		phase  v1.PodPhase
		want   bool
	}{
		"runs always":                   {v1.RestartPolicyAlways, v1.PodRunning, false},
		"ran, and was stopped for good": {v1.RestartPolicyAlways, v1.PodFailed, true},
		"runs once":                     {v1.RestartPolicyNever, v1.PodRunning, true},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod("p", box("main"))
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

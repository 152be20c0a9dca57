package pods

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// blockStatus keeps the status of a pod from being saved, as a full disk does, until it is called again.
func (a *agent) blockStatus(pod *v1.Pod) (unblock func()) {
	a.t.Helper()
	path := filepath.Join(a.dir, "state", "desired", string(pod.UID)+".status")
	if err := os.Remove(path); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		a.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			a.t.Fatal(err)
		}
	}
}

// A pod's end is on record before what tells of it is removed: else it would run once more after a reboot.
func TestEndIsKeptBeforeRemoval(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(a *agent, pod *v1.Pod)
		want string // reason
	}{
		"evicted": {func(a *agent, pod *v1.Pod) {
			a.manager.Evict(string(pod.UID), 0, "no room", false)
		}, "Evicted"},
		"ended": {func(a *agent, pod *v1.Pod) {
			a.runtime.end(a.runtime.running()["main"], 1)
			a.settle()
			if err := a.manager.RemoveDead(a.t.Context()); err != nil {
				a.t.Error(err)
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("p", box("main"))
				pod.Spec.RestartPolicy = v1.RestartPolicyNever
				a.run(pod)
				unblock := a.blockStatus(pod)
				tt.end(a, pod)
				a.settle()
				if s := a.status(pod); s.Phase != v1.PodFailed || s.Reason != tt.want {
					t.Errorf("got %v", s)
				}
				if n := a.runtime.count("RemoveContainer"); n != 0 || len(a.runtime.running()) != 0 {
					t.Errorf("removed %d, running %v while the end is not on record", n, a.runtime.running())
				}
				unblock()
				time.Sleep(errorPeriod)
				a.settle()
				if err := a.manager.RemoveDead(a.t.Context()); err != nil {
					t.Error(err)
				}
				if a.runtime.count("RemoveContainer") == 0 {
					t.Error("the container is still there")
				}
				a.restart()
				a.manager.ResendStatuses()
				if s := a.status(pod); s.Phase != v1.PodFailed || s.Reason != tt.want || a.runtime.count("CreateContainer main") != 1 {
					t.Errorf("after a restart: got %v, started %d times", s, a.runtime.count("CreateContainer main"))
				}
			})
		})
	}
}

// A pod that was refused stays so, though the record of it could not be written at once.
func TestRefusalIsKept(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.admit = forbidPrivileged
		a.restart()
		pod := newPod("p", box("main"))
		a.run(pod)
		unblock := a.blockStatus(pod)
		pod.Spec.Containers = []v1.Container{privilegedBox("main")}
		a.run(pod)
		unblock()
		time.Sleep(errorPeriod)
		a.admit = nil
		a.restart()
		a.manager.ResendStatuses()
		if s := a.status(pod); s.Reason != "ForbiddenByDevice" || len(a.runtime.running()) != 0 {
			t.Errorf("got %v, running %v", s, a.runtime.running())
		}
	})
}

// RemoveDead has no pod to wait for that has nothing to remove, or has removed it.
func TestRemoveDead(t *testing.T) {
	refuse := func(*v1.Pod, bool) (reason, message string, ok bool) {
		return "ForbiddenByDevice", "forbidden by now", false
	}
	for name, tt := range map[string]struct {
		before func(a *agent, pod *v1.Pod)
		kept   int // containers
	}{
		"running": {func(a *agent, pod *v1.Pod) { a.run(pod) }, 1},
		"ended": {func(a *agent, pod *v1.Pod) {
			pod.Spec.RestartPolicy = v1.RestartPolicyNever
			a.run(pod)
			a.runtime.end(a.runtime.running()["main"], 0)
		}, 0},
		"refused": {func(a *agent, pod *v1.Pod) {
			a.admit = refuse
			a.restart()
			a.run(pod)
		}, 0},
		"refused by now": {func(a *agent, pod *v1.Pod) {
			a.run(pod)
			a.admit = refuse
			a.restart()
		}, 0},
		"evicted": {func(a *agent, pod *v1.Pod) {
			a.run(pod)
			a.manager.Evict(string(pod.UID), 0, "no room", false)
		}, 0},
		"cannot be removed": {func(a *agent, pod *v1.Pod) {
			a.run(pod)
			a.runtime.set(func() { a.runtime.removeErr = errors.New("busy") })
			a.delete(pod, 0)
		}, 1},
		"waits for room": {func(a *agent, pod *v1.Pod) {
			a.manager.SetStatic([]*v1.Pod{pod})
			a.settle()
			a.stop()
			a.allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}
			a.start()
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("p", box("main"))
				pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("200m")}
				tt.before(a, pod)
				a.settle()
				began := time.Now()
				if err := a.manager.RemoveDead(t.Context()); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took >= sweepPatience {
					t.Errorf("waited %s in vain", took)
				}
				a.runtime.mu.Lock()
				defer a.runtime.mu.Unlock()
				if n := len(a.runtime.containers); n != tt.kept {
					t.Errorf("%d containers are left, want %d", n, tt.kept)
				}
			})
		})
	}
}

// RemoveDead finds a pod whose container cannot be started again: that has nothing to do with what is left of the one
// before.
func TestRemoveDeadWhileAStartFails(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.run(newPod("p", box("main")))
		a.runtime.end(a.runtime.running()["main"], 1)
		a.runtime.set(func() { a.runtime.startErr = errors.New("no such file") })
		if err := a.manager.RemoveDead(t.Context()); err != nil {
			t.Error(err)
		}
		a.runtime.mu.Lock()
		defer a.runtime.mu.Unlock()
		for id, c := range a.runtime.containers {
			if c.State == exited {
				t.Errorf("%s is left, of %d containers", id, len(a.runtime.containers))
			}
		}
		if len(a.runtime.containers) == 0 {
			t.Error("there was no attempt to start it again")
		}
	})
}

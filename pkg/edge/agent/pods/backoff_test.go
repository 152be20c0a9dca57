package pods

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"
)

func TestCrashLoopBackOff(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("crash", box("main"))
		a.run(pod)
		// Each crash is followed by a longer pause: none, 10 s, 20 s, ... up to 5 minutes.
		for i, wait := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
			wait *= time.Second
			before := a.runtime.count("StartContainer")
			a.runtime.end(a.runtime.running()["main"], 1)
			if wait > 0 {
				time.Sleep(wait - 3*time.Second)
				synctest.Wait()
				if a.runtime.count("StartContainer") != before {
					t.Fatalf("crash %d: started again in less than %v", i, wait)
				}
				if cs := a.status(pod).ContainerStatuses[0]; cs.State.Waiting == nil || cs.State.Waiting.Reason != "CrashLoopBackOff" || int(cs.RestartCount) != i {
					t.Fatalf("crash %d: got %+v", i, cs)
				}
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if got := a.runtime.count("StartContainer"); got != before+1 {
				t.Fatalf("crash %d: started %d times after %v, want once", i, got-before, wait)
			}
		}
		// Ten minutes without a crash forgive all.
		time.Sleep(11 * time.Minute)
		before := a.runtime.count("StartContainer")
		a.runtime.end(a.runtime.running()["main"], 1)
		a.settle()
		if a.runtime.count("StartContainer") != before+1 {
			t.Error("not started at once after it ran for ten minutes")
		}
		if n := len(a.runtime.containers); n > keptInstances {
			t.Errorf("%d instances are kept, want at most %d", n, keptInstances)
		}
	})
}

// TestProbeBackOff has a probe kill the container each time: that is a crash like any other.
func TestProbeBackOff(t *testing.T) {
	probe := &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}, PeriodSeconds: 1, FailureThreshold: 3}
	for name, set := range map[string]func(c *v1.Container){
		"liveness": func(c *v1.Container) { c.LivenessProbe = probe },
		"startup":  func(c *v1.Container) { c.StartupProbe = probe },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				main, sidecar := box("main"), box("sidecar")
				sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
				set(&main)
				pod := newPod("p", main)
				pod.Spec.InitContainers = []v1.Container{sidecar}
				a.runtime.set(func() { a.runtime.execErr = utilexec.CodeExitError{Err: errors.New("no"), Code: 1} })
				a.run(pod)
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				// At once twice, then after 10, 20, 40, 80, 160 and 300 s.
				cs := a.status(pod).ContainerStatuses[0]
				if cs.State.Waiting == nil || cs.State.Waiting.Reason != "CrashLoopBackOff" || cs.RestartCount < 5 || cs.RestartCount > 8 {
					t.Errorf("got %+v after ten minutes", cs)
				}
			})
		})
	}
}

// TestStartFails has a container that does not come so far as to run: if the runtime has it as one that has ended, it is
// started again like one that has crashed, and else every ten seconds.
func TestStartFails(t *testing.T) {
	for name, tt := range map[string]struct {
		set     func(f *fakeRuntime)
		call    string // of each attempt
		at      []int  // when there has been one more, in seconds; the first is not told of
		reason  string
		backOff bool
	}{
		"ended": {
			set:  func(f *fakeRuntime) { f.startErr, f.startErrState = errors.New("no such file"), exited },
			call: "StartContainer", at: []int{0, 10, 30, 70}, reason: "CrashLoopBackOff", backOff: true,
		},
		"created": {
			set:  func(f *fakeRuntime) { f.startErr = errors.New("no such file") },
			call: "StartContainer", at: []int{10, 20, 30, 40, 50, 60, 70}, reason: "RunContainerError",
		},
		"not created": {
			set:  func(f *fakeRuntime) { f.createErr = errors.New("no such file") },
			call: "CreateContainer main", at: []int{10, 20, 30, 40, 50, 60, 70}, reason: "CreateContainerError",
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				a.runtime.set(func() { tt.set(a.runtime) })
				pod := newPod("p", box("main"))
				a.run(pod) // 3 s
				elapsed, want := 3, 1
				for i, at := range tt.at {
					if at > elapsed {
						time.Sleep(time.Duration(at-1-elapsed) * time.Second)
						synctest.Wait()
						if got := a.runtime.count(tt.call); got != want {
							t.Fatalf("attempt %d: got %d attempts a second before", i+2, got)
						}
						time.Sleep(3 * time.Second)
						synctest.Wait()
						elapsed = at + 2
					}
					if want++; a.runtime.count(tt.call) != want {
						t.Fatalf("got %d attempts after %d s, want %d", a.runtime.count(tt.call), elapsed, want)
					}
				}
				if w := a.status(pod).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != tt.reason {
					t.Errorf("got %+v, want it waiting with %s", w, tt.reason)
				}
				if got := a.sink.hasEvent("Warning BackOff"); got != tt.backOff {
					t.Errorf("event BackOff: %t, want %t", got, tt.backOff)
				}
				a.runtime.set(func() {
					if n := len(a.runtime.containers); n > keptInstances {
						t.Errorf("%d instances are kept, want at most %d", n, keptInstances)
					}
				})
			})
		})
	}
}

func TestPullDoesNotCountAsCrash(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("pulled", box("main"))
		pod.Spec.Containers[0].ImagePullPolicy = v1.PullAlways
		a.run(pod)
		a.runtime.end(a.runtime.running()["main"], 1)
		a.settle()
		if n := a.runtime.count("PullImage"); n != 2 {
			t.Errorf("pulled %d times, want once for each start", n)
		}
		if cs := a.status(pod).ContainerStatuses[0]; cs.State.Running == nil || cs.RestartCount != 1 {
			t.Errorf("got %+v, want it running again at once after its first crash", cs)
		}
	})
}

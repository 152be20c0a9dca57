package pods

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// setBack lets the agent and the runtime go on with a clock that can be set back.
func (a *agent) setBack() func(time.Duration) {
	a.stop()
	c := &shiftedClock{}
	a.clock, a.runtime.clock = c, c
	a.start()
	return func(d time.Duration) { c.shift.Add(-int64(d)) }
}

// TestClockSetBack has what was made before the clock was set back seem newer than what takes its place.
func TestClockSetBack(t *testing.T) {
	for name, lose := range map[string]func(a *agent, setBack func(time.Duration)){
		"reboot": func(a *agent, setBack func(time.Duration)) {
			a.stop()
			a.runtime.end(a.runtime.running()["main"], 255)
			a.runtime.set(func() {
				for _, s := range a.runtime.sandboxes {
					s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
				}
			})
			setBack(time.Hour)
			a.start()
		},
		"exit": func(a *agent, setBack func(time.Duration)) {
			setBack(time.Hour)
			a.runtime.end(a.runtime.running()["main"], 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				setBack := a.setBack()
				pod := newPod("p", box("main"))
				a.run(pod)
				sandboxes := a.runtime.count("RunPodSandbox")
				lose(a, setBack)
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				cs := a.status(pod).ContainerStatuses[0]
				if cs.State.Running == nil || cs.RestartCount != 1 || a.runtime.count("StartContainer") != 2 || len(a.runtime.running()) != 1 {
					t.Errorf("started %d times, got %+v, want one restart", a.runtime.count("StartContainer"), cs)
				}
				if n := a.runtime.count("RunPodSandbox") - sandboxes; n > 1 {
					t.Errorf("%d sandboxes were made, want one at most", n)
				}
			})
		})
	}
}

// TestProbesAfterClockSetBack restarts the agent with a clock before the start of a container.
func TestProbesAfterClockSetBack(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		setBack := a.setBack()
		c := box("main")
		c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}},
			InitialDelaySeconds: 30, PeriodSeconds: 1, FailureThreshold: 1}
		pod := newPod("p", c)
		a.run(pod)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !a.status(pod).ContainerStatuses[0].Ready {
			t.Fatalf("got %v, want it ready", a.status(pod))
		}
		a.stop()
		a.runtime.set(func() { a.runtime.execErr = utilexec.CodeExitError{Err: errors.New("no"), Code: 1} })
		setBack(time.Hour)
		a.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := a.status(pod); len(s.ContainerStatuses) == 0 || s.ContainerStatuses[0].Ready {
			t.Errorf("got %v, want it unready: its probe fails", s)
		}
	})
}

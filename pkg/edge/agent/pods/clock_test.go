package pods

import (
	"testing"
	"testing/synctest"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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

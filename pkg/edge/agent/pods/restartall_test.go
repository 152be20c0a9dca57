package pods

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// TestRestartAllStops has containers of each kind run when one makes the pod begin anew: those that start again
// are stopped without a grace period, and that of a debugger, which would not, goes on.
func TestRestartAllStops(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		trigger, other, sidecar := box("trigger"), box("other"), box("sidecar")
		trigger.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
		trigger.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
		other.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}}
		sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
		pod := newPod("p", trigger, other)
		pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](300)
		pod.Spec.InitContainers = []v1.Container{sidecar}
		pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon(box("debugger"))}}
		a.run(pod)
		before := a.runtime.running()
		a.runtime.end(before["trigger"], 42)
		a.settle()
		a.settle()
		now := a.runtime.running()
		for _, name := range []string{"trigger", "other", "sidecar"} {
			if now[name] == "" || now[name] == before[name] {
				t.Errorf("%s was %q and is %q, want it anew", name, before[name], now[name])
			}
		}
		if now["debugger"] == "" || now["debugger"] != before["debugger"] {
			t.Errorf("debugger was %q and is %q, want it to go on", before["debugger"], now["debugger"])
		}
		if !slices.Equal(a.runtime.stops, []int64{minGrace, minGrace}) || a.runtime.count("ExecSync") != 0 {
			t.Errorf("stopped with grace periods %v and %d preStop hooks, want the shortest and none", a.runtime.stops, a.runtime.count("ExecSync"))
		}
	})
}

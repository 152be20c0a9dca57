package status

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

// TestEndIsKept has pods that have ended, and whose containers would make something else of it.
func TestEndIsKept(t *testing.T) {
	overdue := v1.PodStatus{Phase: v1.PodFailed, Reason: "DeadlineExceeded", Message: "too long"}
	for name, tc := range map[string]struct {
		policy           v1.RestartPolicy
		exitCode         int32
		ended            bool
		reported, stored v1.PodStatus
		want             v1.PodStatus // phase, reason and message
	}{
		"Always":                    {v1.RestartPolicyAlways, 0, true, overdue, v1.PodStatus{}, overdue},
		"OnFailure":                 {v1.RestartPolicyOnFailure, 0, true, overdue, v1.PodStatus{}, overdue},
		"Never":                     {v1.RestartPolicyNever, 0, true, overdue, v1.PodStatus{}, overdue},
		"after the agent's restart": {v1.RestartPolicyAlways, 0, false, overdue, v1.PodStatus{}, overdue},
		"stored as well":            {v1.RestartPolicyNever, 0, true, overdue, v1.PodStatus{Phase: v1.PodFailed}, overdue},
		"stored only":               {v1.RestartPolicyNever, 0, true, v1.PodStatus{Phase: v1.PodRunning}, v1.PodStatus{Phase: v1.PodFailed}, v1.PodStatus{Phase: v1.PodFailed}},
		"stored otherwise":          {v1.RestartPolicyNever, 0, true, overdue, v1.PodStatus{Phase: v1.PodSucceeded}, v1.PodStatus{Phase: v1.PodSucceeded}},
		"succeeded":                 {v1.RestartPolicyNever, 1, true, v1.PodStatus{Phase: v1.PodSucceeded}, v1.PodStatus{}, v1.PodStatus{Phase: v1.PodSucceeded}},
	} {
		pod := testPod(tc.policy, "a")
		pod.Status = tc.stored
		got := generate(pod, ready(instance("a", exited, tc.exitCode, 0)), func(in *Input) { in.Old, in.Ended = &tc.reported, tc.ended })
		if got.Phase != tc.want.Phase || got.Reason != tc.want.Reason || got.Message != tc.want.Message {
			t.Errorf("%s: got %s %q %q, want %s %q %q", name, got.Phase, got.Reason, got.Message, tc.want.Phase, tc.want.Reason, tc.want.Message)
		}
	}
}

// TestDisruptionIsKept has a condition that the device sets once, when it stops a pod, and that the cluster sets, too.
func TestDisruptionIsKept(t *testing.T) {
	disruption := func(status v1.ConditionStatus, reason string) []v1.PodCondition {
		return []v1.PodCondition{{Type: v1.DisruptionTarget, Status: status, Reason: reason}}
	}
	own := disruption(v1.ConditionTrue, v1.PodReasonTerminationByKubelet)
	byScheduler, takenBack := disruption(v1.ConditionTrue, v1.PodReasonPreemptionByScheduler), disruption(v1.ConditionFalse, v1.PodReasonPreemptionByScheduler)
	for name, tc := range map[string]struct{ reported, stored, want []v1.PodCondition }{
		"none":                {nil, nil, nil},
		"not stored yet":      {own, nil, own},
		"stored":              {own, own, own},
		"the cluster's first": {own, byScheduler, own},
		"the cluster's":       {byScheduler, byScheduler, byScheduler},
		"taken back":          {byScheduler, takenBack, takenBack},
	} {
		pod := testPod(v1.RestartPolicyNever, "a")
		pod.Status.Conditions = tc.stored
		var got []v1.PodCondition
		for _, c := range generate(pod, ready(), func(in *Input) { in.Old = &v1.PodStatus{Conditions: tc.reported} }).Conditions {
			if c.Type == v1.DisruptionTarget {
				got = append(got, c)
			}
		}
		if !equality.Semantic.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

// TestGivenEnd has the device decide how pods end whose container has ended well.
func TestGivenEnd(t *testing.T) {
	end := &End{Phase: v1.PodFailed, Reason: "Evicted", Message: "no room", Disruption: "for others"}
	for name, tc := range map[string]struct {
		reported, stored v1.PodStatus
		phase            v1.PodPhase
		reason           string
		ready, disrupted string // the condition's reason or message
	}{
		"running": {v1.PodStatus{Phase: v1.PodRunning}, v1.PodStatus{Phase: v1.PodRunning}, v1.PodFailed, "Evicted", "PodFailed", "for others"},
		"stored disruption": {v1.PodStatus{Phase: v1.PodRunning}, v1.PodStatus{Conditions: []v1.PodCondition{{Type: v1.DisruptionTarget, Message: "another"}}},
			v1.PodFailed, "Evicted", "PodFailed", "for others"},
		"had ended":             {v1.PodStatus{Phase: v1.PodSucceeded}, v1.PodStatus{}, v1.PodSucceeded, "", "PodCompleted", ""},
		"had ended in the API":  {v1.PodStatus{Phase: v1.PodRunning}, v1.PodStatus{Phase: v1.PodSucceeded}, v1.PodSucceeded, "", "PodCompleted", ""},
		"had failed for itself": {v1.PodStatus{Phase: v1.PodFailed, Reason: "DeadlineExceeded"}, v1.PodStatus{}, v1.PodFailed, "DeadlineExceeded", "PodFailed", ""},
	} {
		pod := testPod(v1.RestartPolicyAlways, "a")
		pod.Status = tc.stored
		s := generate(pod, ready(instance("a", exited, 0, 0)), func(in *Input) { in.Old, in.Ended, in.End = &tc.reported, true, end })
		if s.Phase != tc.phase || s.Reason != tc.reason {
			t.Errorf("%s: got %s %q, want %s %q", name, s.Phase, s.Reason, tc.phase, tc.reason)
		}
		if c := conditionOf(s, v1.PodReady); c.Reason != tc.ready || c.Status != v1.ConditionFalse {
			t.Errorf("%s: got %v, want %s", name, c, tc.ready)
		}
		if c := conditionOf(s, v1.DisruptionTarget); c.Message != tc.disrupted || (c.Status == v1.ConditionTrue) != (tc.disrupted != "") {
			t.Errorf("%s: got %v, want %q", name, c, tc.disrupted)
		}
	}
}

// TestVolumeMountsAreKept computes the status of a pod that is being deleted, for which the runtime is not asked any
// more what it can do.
func TestVolumeMountsAreKept(t *testing.T) {
	pod := testPod(v1.RestartPolicyAlways, "a")
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{
		{Name: "v", MountPath: "/v", ReadOnly: true, RecursiveReadOnly: ptr.To(v1.RecursiveReadOnlyIfPossible)},
	}
	for name, st := range map[string]*state.Pod{
		"running": ready(instance("a", running, 0, 0)), "exited": ready(instance("a", exited, 0, 0)), "lost": ready(),
	} {
		for _, recursive := range []bool{true, false} {
			old := generate(pod, ready(instance("a", running, 0, 0)), func(in *Input) { in.RecursiveReadOnly = recursive })
			mounts := generate(pod, st, func(in *Input) { in.Old, in.RecursiveReadOnly = old, !recursive }).ContainerStatuses[0].VolumeMounts
			if want := old.ContainerStatuses[0].VolumeMounts; !equality.Semantic.DeepEqual(mounts, want) {
				t.Errorf("%s: got %v, want %v", name, mounts, want)
			}
		}
	}
}

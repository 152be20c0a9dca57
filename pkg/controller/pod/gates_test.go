package pod

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestMergeAppliesReadinessGates(t *testing.T) {
	const gate = corev1.PodConditionType("example.com/gate")
	unset := corev1.PodCondition{
		Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ReadinessGatesNotReady",
		Message: `corresponding condition of pod readiness gate "example.com/gate" does not exist.`,
	}
	closed := unset
	closed.Message = `the status of pod readiness gate "example.com/gate" is not "True", but False`
	unready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady", LastTransitionTime: at(9)}
	since := func(c corev1.PodCondition, seconds int64) *corev1.PodCondition {
		c.LastTransitionTime = at(seconds)
		return &c
	}
	containers := func(s corev1.ConditionStatus) corev1.PodCondition { return cond(corev1.ContainersReady, s, 9) }
	for name, tt := range map[string]struct {
		old, reported []corev1.PodCondition
		want          *corev1.PodCondition
	}{
		"nobody set it": {
			old:      []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionFalse, 3)},
			reported: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 9), containers(corev1.ConditionTrue)},
			want:     since(unset, 3),
		},
		"opened after the device reported": {
			old:      []corev1.PodCondition{*since(unset, 3), cond(gate, corev1.ConditionTrue, 50)},
			reported: []corev1.PodCondition{*since(unset, 9), containers(corev1.ConditionTrue)},
			want:     since(corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue}, 100),
		},
		"closed after the device reported": {
			old:      []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 3), cond(gate, corev1.ConditionFalse, 50)},
			reported: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 9), containers(corev1.ConditionTrue)},
			want:     since(closed, 100),
		},
		"the containers come first": {
			old:      []corev1.PodCondition{cond(gate, corev1.ConditionFalse, 50)},
			reported: []corev1.PodCondition{unready, containers(corev1.ConditionFalse)},
			want:     &unready,
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{
				Spec:   corev1.PodSpec{ReadinessGates: []corev1.PodReadinessGate{{ConditionType: gate}}},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: tt.old},
			}
			merged := merge(pod, corev1.PodStatus{Phase: corev1.PodRunning, Conditions: tt.reported}, at(100))
			if diff := cmp.Diff(tt.want, findCondition(merged.Conditions, corev1.PodReady)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

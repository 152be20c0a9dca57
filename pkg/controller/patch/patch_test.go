package patch

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestStrategic(t *testing.T) {
	status := func(phase corev1.PodPhase, message string) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{Phase: phase, Message: message}}
	}
	for name, tt := range map[string]struct {
		before, after corev1.Pod
		want          string
	}{
		"same":    {before: status("Running", "x"), after: status("Running", "x")},
		"changed": {before: status("Pending", "x"), after: status("Running", "x"), want: `{"metadata":{"uid":"u"},"status":{"phase":"Running"}}`},
		"removed": {before: status("Pending", "x"), after: status("Pending", ""), want: `{"metadata":{"uid":"u"},"status":{"message":null}}`},
	} {
		got, err := Strategic("u", tt.before, tt.after)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %s %v, want %s", name, got, err, tt.want)
		}
	}
}

package podutil

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestFieldPath(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{{Name: "i"}}, Containers: []v1.Container{{Name: "c"}},
		EphemeralContainers: []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "e"}}}}}
	for name, want := range map[string]string{"i": "spec.initContainers{i}", "c": "spec.containers{c}", "e": "spec.ephemeralContainers{e}", "x": ""} {
		if got := FieldPath(pod, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

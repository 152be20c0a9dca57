package podutil

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

func resources(requests, limits [2]string) v1.ResourceRequirements {
	list := func(values [2]string) v1.ResourceList {
		l := v1.ResourceList{}
		for i, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			if values[i] != "" {
				l[name] = resource.MustParse(values[i])
			}
		}
		return l
	}
	return v1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
}

func TestQOSClass(t *testing.T) {
	full := [2]string{"1", "1Gi"}
	for _, tc := range []struct {
		name string
		pod  v1.PodSpec
		want v1.PodQOSClass
	}{
		{"nothing", v1.PodSpec{Containers: []v1.Container{{}}}, v1.PodQOSBestEffort},
		{"all equal", v1.PodSpec{Containers: []v1.Container{{Resources: resources(full, full)}}}, v1.PodQOSGuaranteed},
		{"request below limit", v1.PodSpec{Containers: []v1.Container{{Resources: resources([2]string{"500m", "1Gi"}, full)}}}, v1.PodQOSBurstable},
		{"one container without", v1.PodSpec{Containers: []v1.Container{{Resources: resources(full, full)}, {}}}, v1.PodQOSBurstable},
		{"init container without", v1.PodSpec{InitContainers: []v1.Container{{}}, Containers: []v1.Container{{Resources: resources(full, full)}}}, v1.PodQOSBurstable},
		{"cpu only", v1.PodSpec{Containers: []v1.Container{{Resources: resources([2]string{"1", ""}, [2]string{"1", ""})}}}, v1.PodQOSBurstable},
		{"of the pod", v1.PodSpec{Resources: ptr.To(resources(full, full)), Containers: []v1.Container{{}}}, v1.PodQOSGuaranteed},
	} {
		if got := QOSClass(&v1.Pod{Spec: tc.pod}); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
	if got := QOSClass(&v1.Pod{Status: v1.PodStatus{QOSClass: v1.PodQOSGuaranteed}}); got != v1.PodQOSGuaranteed {
		t.Errorf("got %s, want what the cluster says", got)
	}
}

func TestFieldPath(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{{Name: "i"}}, Containers: []v1.Container{{Name: "c"}},
		EphemeralContainers: []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "e"}}}}}
	for name, want := range map[string]string{"i": "spec.initContainers{i}", "c": "spec.containers{c}", "e": "spec.ephemeralContainers{e}", "x": ""} {
		if got := FieldPath(pod, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

package criconfig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

func list(cpu, memory string) v1.ResourceList {
	l := v1.ResourceList{}
	if cpu != "" {
		l[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func TestPodLimits(t *testing.T) {
	container := func(requests, limits v1.ResourceList) v1.Container {
		return v1.Container{Resources: v1.ResourceRequirements{Requests: requests, Limits: limits}}
	}
	for name, tc := range map[string]struct {
		spec                  v1.PodSpec
		shares, quota, memory int64
	}{
		"best effort": {v1.PodSpec{Containers: []v1.Container{{}}}, 2, -1, -1},
		"guaranteed": {v1.PodSpec{Containers: []v1.Container{
			container(list("500m", "64Mi"), list("500m", "64Mi")), container(list("1", "64Mi"), list("1", "64Mi")),
		}}, 1536, 150000, 128 << 20},
		"one container without a limit": {v1.PodSpec{Containers: []v1.Container{
			container(list("500m", ""), list("500m", "64Mi")), container(nil, list("", "64Mi")),
		}}, 512, -1, 128 << 20},
		"an init container with more": {v1.PodSpec{
			InitContainers: []v1.Container{container(list("2", ""), list("2", "1Gi"))},
			Containers:     []v1.Container{container(list("1", ""), list("1", "64Mi"))},
		}, 2048, 200000, 1 << 30},
		"limits of the pod": {v1.PodSpec{
			Resources: &v1.ResourceRequirements{Requests: list("1", ""), Limits: list("2", "256Mi")}, Containers: []v1.Container{{}, {}},
		}, 1024, 200000, 256 << 20},
		"overhead": {v1.PodSpec{
			Overhead: list("250m", "64Mi"), Containers: []v1.Container{container(list("500m", "64Mi"), list("500m", "64Mi"))},
		}, 768, 75000, 128 << 20},
		"overhead without limits": {v1.PodSpec{
			Overhead: list("250m", "64Mi"), Containers: []v1.Container{container(list("500m", ""), nil)},
		}, 768, -1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			got := PodLimits(&v1.Pod{Spec: tc.spec}, &Node{})
			if got.CpuShares != tc.shares || got.CpuQuota != tc.quota || got.MemoryLimitInBytes != tc.memory || got.CpuPeriod != 100000 {
				t.Errorf("got %v", got)
			}
			// The status tells the same, without the kernel's own minimum.
			if tc.spec.Resources != nil {
				return
			}
			sum := SumOfContainers(&v1.Pod{Spec: tc.spec})
			if max(2, sum.Requests.Cpu().MilliValue()*1024/1000) != tc.shares || sum.Limits.Cpu().MilliValue()*100 != max(tc.quota, 0) || sum.Limits.Memory().Value() != max(tc.memory, 0) {
				t.Errorf("the sum is %v", sum)
			}
		})
	}
}

// TestSandboxResources checks what runtimes are told that put a pod into a machine of its own.
func TestSandboxResources(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{
		Overhead:   list("250m", "64Mi"),
		Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: list("500m", "32Mi"), Limits: list("1", "128Mi")}}},
	}}
	config, _, err := Sandbox(pod, &Node{LogDir: "/logs"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if r := config.Linux.Resources; r.CpuShares != 512 || r.CpuQuota != 100000 || r.MemoryLimitInBytes != 128<<20 {
		t.Errorf("got resources %v", r)
	}
	if o := config.Linux.Overhead; o.CpuShares != 256 || o.CpuQuota != 25000 || o.MemoryLimitInBytes != 64<<20 {
		t.Errorf("got overhead %v", o)
	}
}

// TestOOMScoreOfPodRequests has pods of which 1Gi is all the memory there is.
func TestOOMScoreOfPodRequests(t *testing.T) {
	with := func(requests v1.ResourceList) v1.Container {
		return v1.Container{Resources: v1.ResourceRequirements{Requests: requests}}
	}
	sidecar := with(list("", "32Mi"))
	sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	for name, tc := range map[string]struct {
		pod        v1.ResourceList
		init, main []v1.Container
		want       []int64 // of the init containers, then the others
	}{
		"none of the pod":         {main: []v1.Container{with(list("", "256Mi")), with(nil)}, want: []int64{750, 999}},
		"of cpu only":             {pod: list("1", ""), main: []v1.Container{with(list("", "256Mi"))}, want: []int64{750}},
		"shared by all":           {pod: list("", "512Mi"), main: []v1.Container{with(nil), with(nil)}, want: []int64{750, 750}},
		"what is left":            {pod: list("", "512Mi"), main: []v1.Container{with(list("", "256Mi")), with(nil)}, want: []int64{625, 875}},
		"nothing is left":         {pod: list("", "256Mi"), main: []v1.Container{with(list("", "256Mi")), with(nil)}, want: []int64{750, 999}},
		"a sidecar as its server": {pod: list("", "544Mi"), init: []v1.Container{sidecar}, main: []v1.Container{with(list("", "128Mi"))}, want: []int64{688, 688}},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{InitContainers: tc.init, Containers: tc.main, Resources: &v1.ResourceRequirements{Requests: tc.pod}}}
		var got []int64
		for c := range podutil.Containers(pod) {
			got = append(got, oomScoreAdj(pod, c, 1<<30))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

// TestHugepages has a device with pages of two sizes.
func TestHugepages(t *testing.T) {
	pages := func(of2Mi, of1Gi string) v1.ResourceList {
		l := v1.ResourceList{}
		if of2Mi != "" {
			l["hugepages-2Mi"] = resource.MustParse(of2Mi)
		}
		if of1Gi != "" {
			l["hugepages-1Gi"] = resource.MustParse(of1Gi)
		}
		return l
	}
	node := &Node{Allocatable: pages("64Mi", "0"), MemoryCapacity: 1 << 30}
	for _, tc := range []struct {
		name         string
		node         *Node
		pod          v1.ResourceList
		a, b         v1.ResourceList
		want, wantOf string // of the first container, and of the pod
	}{
		{name: "none asked for", node: node, want: "2MB=0 1GB=0", wantOf: "2MB=0 1GB=0"},
		{name: "by containers", node: node, a: pages("4Mi", ""), b: pages("8Mi", ""), want: "2MB=4194304 1GB=0", wantOf: "2MB=12582912 1GB=0"},
		{name: "by another container", node: node, b: pages("8Mi", ""), want: "2MB=0 1GB=0", wantOf: "2MB=8388608 1GB=0"},
		{name: "by the pod", node: node, pod: pages("8Mi", ""), want: "2MB=8388608 1GB=0", wantOf: "2MB=8388608 1GB=0"},
		{name: "by both", node: node, pod: pages("8Mi", "1Gi"), a: pages("2Mi", ""), want: "2MB=2097152 1GB=1073741824", wantOf: "2MB=8388608 1GB=1073741824"},
		{name: "from a device without any", node: &Node{}},
	} {
		pod := testPod(v1.Container{Resources: v1.ResourceRequirements{Limits: tc.a}}, v1.Container{Resources: v1.ResourceRequirements{Limits: tc.b}})
		pod.Spec.Resources = &v1.ResourceRequirements{Limits: tc.pod}
		text := func(r *runtimeapi.LinuxContainerResources) string {
			var out []string
			for _, h := range r.HugepageLimits {
				out = append(out, fmt.Sprintf("%s=%d", h.PageSize, h.Limit))
			}
			return strings.Join(out, " ")
		}
		if got := text(containerResources(pod, &pod.Spec.Containers[0], tc.node)); got != tc.want {
			t.Errorf("%s: the container has %s, want %s", tc.name, got, tc.want)
		}
		if got := text(PodLimits(pod, tc.node)); got != tc.wantOf {
			t.Errorf("%s: the pod has %s, want %s", tc.name, got, tc.wantOf)
		}
	}
}

package admission

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func list(pairs ...string) v1.ResourceList {
	l := v1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func pod(name string, requests ...string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "main", Resources: v1.ResourceRequirements{Requests: list(requests...)}}}},
	}
}

func withPort(p *v1.Pod, ip string, port int32, protocol v1.Protocol) *v1.Pod {
	p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostIP: ip, HostPort: port, Protocol: protocol}}
	return p
}

func TestClaim(t *testing.T) {
	overhead := pod("p", "cpu", "1")
	overhead.Spec.Overhead = list("cpu", "600m")
	windows := pod("p")
	windows.Spec.OS = &v1.PodOS{Name: v1.Windows}
	initPort := pod("p")
	initPort.Spec.InitContainers = []v1.Container{{Name: "i", Ports: []v1.ContainerPort{{HostPort: 80}}}}
	sidecarPort := pod("p")
	sidecarPort.Spec.InitContainers = []v1.Container{{Name: "i", RestartPolicy: ptr.To(v1.ContainerRestartPolicyAlways), Ports: []v1.ContainerPort{{HostPort: 80}}}}
	const port = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
	for _, tc := range []struct {
		name            string
		pod             *v1.Pod
		reason, message string // empty: admitted
	}{
		{"fits exactly", pod("p", "cpu", "1500m", "memory", "768Mi", "ephemeral-storage", "1Gi"), "", ""},
		{"cpu", pod("p", "cpu", "1501m"), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000"},
		{"memory", pod("p", "memory", "769Mi"), "OutOfmemory", "Node didn't have enough resource: memory, requested: 806354944, used: 268435456, capacity: 1073741824"},
		{"storage", pod("p", "ephemeral-storage", "2Gi"), "OutOfephemeral-storage", "Node didn't have enough resource: ephemeral-storage, requested: 2147483648, used: 0, capacity: 1073741824"},
		{"the first of several", pod("p", "memory", "2Gi", "cpu", "9"), "OutOfcpu", "Node didn't have enough resource: cpu, requested: 9000, used: 500, capacity: 2000"},
		{"overhead counts", overhead, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000"},
		{"huge pages that are not there", pod("p", "hugepages-2Mi", "4Mi"), "OutOfhugepages-2Mi", "Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 0, capacity: 0"},
		{"a resource of the cluster's own", pod("p", "example.com/license", "1"), "", ""},
		{"a resource that is taken", pod("p", "example.com/camera", "1"), "OutOfexample.com/camera", "Node didn't have enough resource: example.com/camera, requested: 1, used: 1, capacity: 1"},
		{"port", withPort(pod("p"), "", 80, ""), "NodePorts", port},
		{"port on another address", withPort(pod("p"), "192.0.2.8", 80, v1.ProtocolTCP), "", ""},
		{"port on every address", withPort(pod("p"), "0.0.0.0", 80, v1.ProtocolTCP), "NodePorts", port},
		{"port of another protocol", withPort(pod("p"), "", 80, v1.ProtocolUDP), "", ""},
		{"port of an init container", initPort, "", ""},
		{"port of a sidecar", sidecarPort, "NodePorts", port},
		{"another system", windows, "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := NewLedger()
			l.SetAllocatable(list("cpu", "2", "memory", "1Gi", "ephemeral-storage", "1Gi", "pods", "2", "example.com/camera", "1"))
			first := withPort(pod("first", "cpu", "500m", "memory", "256Mi", "example.com/camera", "1"), "192.0.2.7", 80, v1.ProtocolTCP)
			if r := l.Claim(first); r != nil {
				t.Fatalf("the first pod is refused: %v", r)
			}
			switch r := l.Claim(tc.pod); {
			case r == nil && tc.reason != "":
				t.Errorf("admitted, want %s", tc.reason)
			case r != nil && (r.Reason != tc.reason || r.Message != tc.message):
				t.Errorf("got %q, %q, want %q, %q", r.Reason, r.Message, tc.reason, tc.message)
			}
		})
	}
}

func TestLedger(t *testing.T) {
	l := NewLedger()
	if r := l.Claim(pod("early", "cpu", "100")); r != nil {
		t.Errorf("refused before anything is known: %v", r)
	}
	l.Release("early")
	l.SetAllocatable(list("cpu", "2", "pods", "2"))
	for _, name := range []string{"a", "b", "a"} { // the second claim of a pod replaces its first
		if r := l.Claim(pod(name, "cpu", "1")); r != nil {
			t.Errorf("%s: %v", name, r)
		}
	}
	want := Rejection{"OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"}
	if r := l.Claim(pod("c")); r == nil || *r != want {
		t.Errorf("got %v, want %v", r, want)
	}
	if !l.Release("b") || l.Release("b") {
		t.Error("only the first release of a pod gives something back")
	}
	if r := l.Claim(pod("c")); r != nil {
		t.Errorf("refused though another has gone: %v", r)
	}
}

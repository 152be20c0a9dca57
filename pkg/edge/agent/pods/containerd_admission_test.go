package pods

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestContainerdAdmission runs more than the device has room for, also when it comes back with less.
func TestContainerdAdmission(t *testing.T) {
	d := newDevice(t)
	requesting := func(name, cpu, memory string) *v1.Pod {
		pod := newPod(name, script("main", forever))
		pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
		return pod
	}
	refused := func(pod *v1.Pod, reason, message string) {
		t.Helper()
		d.waitPhase(pod, v1.PodFailed)
		if s := d.status(pod); s.Reason != reason || s.Message != "Pod was rejected: "+message || len(s.ContainerStatuses) != 0 {
			t.Errorf("%s: got %s, %q, %v", pod.Name, s.Reason, s.Message, s.ContainerStatuses)
		}
	}
	sandboxes := func(pod *v1.Pod) int {
		t.Helper()
		list, err := d.runtime.ListPodSandbox(t.Context(), &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(pod.UID)}})
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	first, cpu, memory := requesting("first", "1500m", "512Mi"), requesting("cpu", "501m", "1Mi"), requesting("memory", "1m", "600Mi")
	last := requesting("last", "500m", "1Mi")
	first.CreationTimestamp, last.CreationTimestamp = metav1.Unix(1000, 0), metav1.Unix(2000, 0)
	for _, pod := range []*v1.Pod{first, cpu, memory, last} {
		d.run(pod)
	}
	refused(cpu, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000")
	refused(memory, "OutOfmemory", "Node didn't have enough resource: memory, requested: 629145600, used: 536870912, capacity: 1073741824")
	d.waitReady(first)
	d.waitReady(last)
	if !d.sink.hasEvent("Warning OutOfcpu : Node didn't have enough resource: cpu") {
		t.Errorf("no event in %q", d.sink.events)
	}
	if n := sandboxes(cpu); n != 0 {
		t.Errorf("a refused pod has %d sandboxes", n)
	}

	// After a restart with the same room everything is as before, and what was refused stays so.
	container := d.status(first).ContainerStatuses[0].ContainerID
	d.restart()
	d.manager.ResendStatuses()
	refused(cpu, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000")
	d.waitReady(first)
	if got := d.status(first).ContainerStatuses[0].ContainerID; got != container {
		t.Errorf("the container is another one: %s, not %s", got, container)
	}

	// With less, the younger of the running pods has to go.
	d.allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1600m"), v1.ResourceMemory: resource.MustParse("1Gi")}
	d.restart()
	d.manager.ResendStatuses()
	refused(last, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 500, used: 1500, capacity: 1600")
	d.wait("its containers to end", func() bool {
		_, err := d.manager.ContainerID(string(last.UID), "main")
		return err != nil
	})
	d.waitReady(first)

	// Who leaves makes room.
	d.remove(first, 0)
	again := requesting("again", "1600m", "1Mi")
	d.run(again)
	d.waitReady(again)
	for _, pod := range []*v1.Pod{cpu, memory, last, again} {
		d.remove(pod, 0)
	}
}

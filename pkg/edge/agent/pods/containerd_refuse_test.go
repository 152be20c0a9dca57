package pods

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// TestContainerdHandlers has pods with RuntimeClasses, of which the cloud has made handlers, and one that
// wants huge pages.
func TestContainerdHandlers(t *testing.T) {
	d := newDevice(t)
	known, unknown := newPod("known", script("main", forever)), newPod("unknown", script("main", forever))
	known.Spec.RuntimeClassName, unknown.Spec.RuntimeClassName = ptr.To("runc"), ptr.To("gvisor")
	known.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}
	pages := newPod("pages", script("main", forever))
	pages.Spec.Containers[0].Resources.Limits = v1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi"), v1.ResourceMemory: resource.MustParse("10Mi")}
	pages.Spec.Containers[0].Resources.Requests = pages.Spec.Containers[0].Resources.Limits
	for _, pod := range []*v1.Pod{known, unknown, pages} {
		d.run(pod)
	}
	d.waitReady(known)
	d.wait("the event about the handler", func() bool {
		return d.sink.hasEvent(`Warning FailedCreatePodSandBox : Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for "gvisor" is configured`)
	})
	if s := d.status(unknown); s.Phase != v1.PodPending || s.ContainerStatuses[0].State.Waiting == nil || s.ContainerStatuses[0].State.Waiting.Reason != "ContainerCreating" {
		t.Errorf("got %v", s)
	}
	d.waitPhase(pages, v1.PodFailed)
	if s := d.status(pages); s.Reason != "OutOfhugepages-2Mi" || s.Message != "Pod was rejected: Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 0, capacity: 0" {
		t.Errorf("got %s, %q", s.Reason, s.Message)
	}
	for _, pod := range []*v1.Pod{known, unknown, pages} {
		d.remove(pod, 0)
	}
}

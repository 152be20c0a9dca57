package pods

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubelet/pkg/types"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestForeignSandboxesAreNotTouched(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.runtime.foreign("kubelet", map[string]string{types.KubernetesPodUIDLabel: "x"})
		a.runtime.foreign("other-agent", map[string]string{types.KubernetesPodUIDLabel: "y", podutil.LabelManagedBy: "other"})
		a.runtime.foreign("mine", map[string]string{types.KubernetesPodUIDLabel: "z", types.KubernetesPodNameLabel: "n",
			types.KubernetesPodNamespaceLabel: "ns", podutil.LabelManagedBy: DefaultOwner})
		a.settle()
		if len(a.runtime.sandboxes) != 3 {
			t.Error("something was removed before the cloud has said what it wants")
		}
		a.manager.Desired(&edgeapi.DesiredPods{})
		a.settle()
		if a.runtime.sandboxes["mine"] != nil {
			t.Error("the rest of an unwanted pod is still there")
		}
		if len(a.runtime.sandboxes) != 2 {
			t.Error("somebody else's sandbox was removed")
		}
	})
}

// The runtime is looked at for orphans, and the pod comes from the cloud before what was found is removed.
func TestOrphanThatIsWantedByNow(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.manager.Desired(&edgeapi.DesiredPods{})
		pod, other := newPod("p", box("main")), newPod("other", box("main"))
		a.run(pod)
		for _, p := range []*v1.Pod{pod, other} {
			a.manager.relist.removeOrphan(klog.Background(), "Removing it", &edgeapi.DeletePod{Uid: string(p.UID)})
		}
		a.settle()
		if a.gone(pod) || len(a.runtime.running()) != 1 {
			t.Error("a pod that is wanted was removed")
		}
		if !a.gone(other) {
			t.Error("one that is not wanted was not")
		}
	})
}

// What the runtime makes late of a pod that is gone is removed: the pod is not wanted any more.
func TestOrphanOfADeletedPod(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		a.manager.Desired(&edgeapi.DesiredPods{Pods: []*edgeapi.PodDigest{{Uid: string(pod.UID)}}})
		a.run(pod)
		a.delete(pod, 0)
		a.runtime.foreign("late", map[string]string{types.KubernetesPodUIDLabel: string(pod.UID), podutil.LabelManagedBy: DefaultOwner})
		a.settle()
		if !a.gone(pod) || a.runtime.sandboxes["late"] != nil {
			t.Errorf("gone %t, left %v", a.gone(pod), a.runtime.sandboxes)
		}
	})
}

// A pod goes while the runtime is being asked what it has: what it then says of the pod is not a remainder.
func TestPodThatGoesDuringARelist(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		a.manager.Desired(&edgeapi.DesiredPods{Pods: []*edgeapi.PodDigest{{Uid: string(pod.UID)}}})
		a.run(pod)
		answer := make(chan struct{})
		a.runtime.set(func() { a.runtime.listBlock = answer })
		a.settle()
		a.delete(pod, 0)
		if !a.gone(pod) {
			t.Error("the pod is still there")
		}
		a.runtime.set(func() { a.runtime.listBlock = nil })
		close(answer)
		a.settle()
		a.sink.mu.Lock()
		defer a.sink.mu.Unlock()
		if len(a.sink.final[string(pod.UID)]) == 0 {
			t.Error("it was removed once more, and the status with which it ended is lost")
		}
	})
}

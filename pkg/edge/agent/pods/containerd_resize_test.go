package pods

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

func resources(requestCPU, limitCPU, memory string) v1.ResourceRequirements {
	return v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(requestCPU), v1.ResourceMemory: resource.MustParse(memory)},
		Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse(limitCPU), v1.ResourceMemory: resource.MustParse(memory)},
	}
}

// limitsOf reads a container's limits from its cgroup: quota and period of the cpu, bytes of memory.
func limitsOf(d *device, pod *v1.Pod, container string) string {
	return d.mustExec(pod, container, "/bin/sh", "-c", "cd /sys/fs/cgroup; if [ -e cpu.max ]; then cat cpu.max memory.max; "+
		"else echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us); cat memory/memory.limit_in_bytes; fi")
}

func conditionOf(s *v1.PodStatus, t v1.PodConditionType) *v1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// resized is the pod as its resize subresource would leave it.
func resized(pod *v1.Pod, r v1.ResourceRequirements) *v1.Pod {
	changed := pod.DeepCopy()
	changed.Generation++
	changed.Spec.Containers[0].Resources = r
	return changed
}

func TestContainerdResize(t *testing.T) {
	d := newDevice(t)
	c := script("main", forever)
	c.Resources = resources("100m", "200m", "32Mi")
	c.ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
	pod := newPod("resize", c)
	d.run(pod)
	d.waitReady(pod)
	if got := limitsOf(d, pod, "main"); got != "20000 100000\n33554432" {
		t.Fatalf("before: got %q", got)
	}
	settled := func(pod *v1.Pod, want v1.ResourceRequirements) func() bool {
		return func() bool {
			s := d.status(pod)
			return s.ObservedGeneration == pod.Generation && conditionIs(s, v1.PodReady, v1.ConditionTrue) &&
				conditionOf(s, v1.PodResizeInProgress) == nil && conditionOf(s, v1.PodResizePending) == nil &&
				len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].Resources != nil && sameResources(*s.ContainerStatuses[0].Resources, want)
		}
	}
	// The cpu changes under the running container.
	id := d.status(pod).ContainerStatuses[0].ContainerID
	pod = resized(pod, resources("150m", "500m", "32Mi"))
	d.run(pod)
	d.wait("the cpu to be resized", settled(pod, pod.Spec.Containers[0].Resources))
	if got := limitsOf(d, pod, "main"); got != "50000 100000\n33554432" {
		t.Errorf("after the resize of the cpu: got %q", got)
	}
	cs := d.status(pod).ContainerStatuses[0]
	if cs.ContainerID != id || cs.RestartCount != 0 || cs.AllocatedResources.Cpu().String() != "150m" {
		t.Errorf("got container %s, restarts %d, allocated %v; want %s as it was", cs.ContainerID, cs.RestartCount, cs.AllocatedResources, id)
	}
	if s := d.status(pod); s.AllocatedResources.Cpu().String() != "150m" || s.Resources == nil || s.Resources.Limits.Cpu().String() != "500m" {
		t.Errorf("of the pod as a whole: allocated %v, in force %v", s.AllocatedResources, s.Resources)
	}
	for _, reason := range []string{"ResizeStarted", "ResizeCompleted"} {
		if !d.sink.hasEvent(reason) {
			t.Errorf("no event %s", reason)
		}
	}
	// The memory takes a restart.
	pod = resized(pod, resources("150m", "500m", "64Mi"))
	d.run(pod)
	d.wait("the memory to be resized", settled(pod, pod.Spec.Containers[0].Resources))
	cs = d.status(pod).ContainerStatuses[0]
	if got := limitsOf(d, pod, "main"); got != "50000 100000\n67108864" || cs.ContainerID == id || cs.RestartCount != 1 {
		t.Errorf("after the resize of the memory: got %q, container %s, restarts %d", got, cs.ContainerID, cs.RestartCount)
	}
	if !d.sink.hasEvent("Container main resize requires restart") {
		t.Error("no event about the restart")
	}

	// More than there is now, with another pod beside it, and more than there ever is.
	other := newPod("other", script("main", forever))
	other.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}}
	d.run(other)
	d.waitReady(other)
	before := pod.Spec.Containers[0].Resources
	pending := func(reason, message string) {
		t.Helper()
		d.wait("the resize to be "+reason, func() bool {
			c := conditionOf(d.status(pod), v1.PodResizePending)
			return c != nil && c.Reason == reason && strings.Contains(c.Message, message) && c.ObservedGeneration == pod.Generation
		})
		if cs := d.status(pod).ContainerStatuses[0]; !sameResources(*cs.Resources, before) || d.status(pod).ObservedGeneration != pod.Generation {
			t.Errorf("%s: got %v", reason, cs.Resources)
		}
	}
	pod = resized(pod, resources("3", "3", "64Mi"))
	d.run(pod)
	pending(v1.PodReasonInfeasible, "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000")
	pod = resized(pod, resources("1", "1", "64Mi"))
	d.run(pod)
	pending(v1.PodReasonDeferred, "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000")
	// What waits goes on waiting after a restart of the agent, and is done when there is room.
	d.restart()
	d.wait("the resize to be looked at again", func() bool { return d.sink.hasEvent("ResizeDeferred") })
	d.manager.ResendStatuses()
	pending(v1.PodReasonDeferred, "Node didn't have enough resource")
	if got := limitsOf(d, pod, "main"); got != "50000 100000\n67108864" {
		t.Errorf("while it waits: got %q", got)
	}
	d.remove(other, 1)
	d.wait("the deferred resize", settled(pod, pod.Spec.Containers[0].Resources))
	if got, restarts := limitsOf(d, pod, "main"), d.status(pod).ContainerStatuses[0].RestartCount; got != "100000 100000\n67108864" || restarts != 1 {
		t.Errorf("after there was room: got %q, restarts %d", got, restarts)
	}
}

// TestContainerdResizeBelowUsage takes memory away that a container uses.
func TestContainerdResizeBelowUsage(t *testing.T) {
	d := newDevice(t)
	c := script("main", "head -c 24000000 /dev/zero > /mem/file; touch /mem/done; "+forever)
	c.Resources = resources("100m", "500m", "64Mi")
	c.VolumeMounts = []v1.VolumeMount{{Name: "mem", MountPath: "/mem"}}
	c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"ls", "/mem/done"}}},
		PeriodSeconds: 1, TimeoutSeconds: 30, SuccessThreshold: 1, FailureThreshold: 3}
	pod := newPod("tight", c)
	pod.Spec.Volumes = []v1.Volume{{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{
		Medium: v1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("32Mi"))}}}}
	d.run(pod)
	d.waitReady(pod)
	id := d.status(pod).ContainerStatuses[0].ContainerID
	pod = resized(pod, resources("100m", "500m", "16Mi"))
	d.run(pod)
	want := `attempting to set container "main" memory limit (16777216) below current usage`
	d.wait("the resize to fail", func() bool {
		c := conditionOf(d.status(pod), v1.PodResizeInProgress)
		return c != nil && c.Reason == v1.PodReasonError && strings.Contains(c.Message, want)
	})
	cs := d.status(pod).ContainerStatuses[0]
	if cs.ContainerID != id || cs.Resources.Limits.Memory().String() != "64Mi" || cs.AllocatedResources.Memory().String() != "16Mi" {
		t.Errorf("got %s, in force %v, allocated %v", cs.ContainerID, cs.Resources, cs.AllocatedResources)
	}
	d.mustExec(pod, "main", "rm", "/mem/file")
	d.wait("the resize to succeed", func() bool { return conditionOf(d.status(pod), v1.PodResizeInProgress) == nil })
	if got := limitsOf(d, pod, "main"); !strings.HasSuffix(got, fmt.Sprintf("\n%d", 16<<20)) {
		t.Errorf("got %q", got)
	}
}

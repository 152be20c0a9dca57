package pods

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"arhat.dev/aranya/pkg/edge/agent/cgroups"
)

// cgroupRoot holds the cgroups of this device's pods: others run on the same machine. It goes with the
// device's containerd.
func (d *device) cgroupRoot() string { return cgroups.DefaultRoot + "_" + filepath.Base(d.dir) }

// hierarchies of cgroups on this machine: one, or one per controller.
func hierarchies() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*") // the pattern is valid
	return dirs
}

// cgroupsOf finds what there is of a pod's cgroup, in any hierarchy.
func (d *device) cgroupsOf(pod *v1.Pod) []string {
	var found []string
	for _, h := range hierarchies() {
		for _, level := range []string{"", "burstable", "besteffort"} {
			if dir := filepath.Join(h, d.cgroupRoot(), level, "pod"+string(pod.UID)); exists(dir) {
				found = append(found, dir)
			}
		}
	}
	return found
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// podCgroup reads the limits of a pod: shares or weight, quota and period, memory, pids.
func (d *device) podCgroup(pod *v1.Pod, level string) string {
	d.t.Helper()
	read := func(controller, name string) string {
		dir := "/sys/fs/cgroup"
		if !exists(dir + "/cgroup.controllers") {
			dir = filepath.Join(dir, controller)
		}
		data, err := os.ReadFile(filepath.Join(dir, d.cgroupRoot(), level, "pod"+string(pod.UID), name))
		if err != nil {
			d.t.Error(err)
		}
		return strings.TrimSpace(string(data))
	}
	if exists("/sys/fs/cgroup/cgroup.controllers") {
		return fmt.Sprintf("%s %s %s", read("", "cpu.max"), read("", "memory.max"), read("", "pids.max"))
	}
	quota, memory := read("cpu", "cpu.cfs_quota_us"), read("memory", "memory.limit_in_bytes")
	if quota == "-1" {
		quota = "max"
	}
	if len(memory) > 18 { // the kernel's own idea of no limit
		memory = "max"
	}
	return fmt.Sprintf("%s %s %s %s", quota, read("cpu", "cpu.cfs_period_us"), memory, read("pids", "pids.max"))
}

// TestContainerdCgroups is about what pods may use as a whole.
func TestContainerdCgroups(t *testing.T) {
	d := newDevice(t)
	d.podPIDs = 40
	d.stop()
	// A pod that is no more, as after a crash of the machine's agent. A running one would remove it while it is made.
	stale := newPod("stale", script("main", forever))
	if err := d.manager.cfg.Cgroups.Create(string(stale.UID), v1.PodQOSBurstable, &cgroups.Limits{}); err != nil {
		t.Fatal(err)
	}
	d.start()

	pod := newPod("limited", script("one", forever), script("two", forever))
	pod.Spec.Resources = &v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")},
		Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("64Mi")},
	}
	pod.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("16Mi")}
	guaranteed := newPod("guaranteed", script("main", forever))
	guaranteed.Spec.Containers[0].Resources = resources("200m", "200m", "32Mi")
	bestEffort := newPod("besteffort", script("main", "true"))
	bestEffort.Spec.RestartPolicy = v1.RestartPolicyNever
	for _, p := range []*v1.Pod{pod, guaranteed, bestEffort} {
		d.run(p)
	}
	d.waitReady(pod)
	d.waitReady(guaranteed)
	if got := d.podCgroup(pod, "burstable"); got != "60000 100000 83886080 40" {
		t.Errorf("the pod with limits has %q", got)
	}
	if got := d.podCgroup(guaranteed, ""); got != "20000 100000 33554432 40" {
		t.Errorf("the guaranteed pod has %q", got)
	}
	// The containers are in there: one that forks meets the limit of its pod.
	if out, err := d.exec(pod, "one", nil, "sh", "-c", "for i in $(seq 60); do sleep 1 & done"); err == nil || !strings.Contains(out, "can't fork") {
		t.Errorf("no limit of processes was met: %q", out)
	}
	if out := d.mustExec(guaranteed, "main", "cat", "/proc/self/cgroup"); strings.Contains(out, "pod"+string(pod.UID)) {
		t.Errorf("the container of one pod is in the cgroup of the other: %q", out)
	}

	// More for the pod, then less: in place, whatever the containers have.
	id := d.status(guaranteed).ContainerStatuses[0].ContainerID
	for _, step := range []struct{ cpu, memory, want string }{
		{"400m", "64Mi", "40000 100000 67108864 40"}, {"100m", "48Mi", "10000 100000 50331648 40"},
	} {
		guaranteed = resized(guaranteed, resources(step.cpu, step.cpu, step.memory))
		d.run(guaranteed)
		d.wait("the pod to be resized", func() bool {
			s := d.status(guaranteed)
			return s.ObservedGeneration == guaranteed.Generation && conditionOf(s, v1.PodResizeInProgress) == nil && sameResources(*s.ContainerStatuses[0].Resources, guaranteed.Spec.Containers[0].Resources)
		})
		if got := d.podCgroup(guaranteed, ""); got != step.want {
			t.Errorf("resized to %s: got %q, want %q", step.cpu, got, step.want)
		}
		d.restart() // what it was given is not forgotten
	}
	d.manager.ResendStatuses()
	d.waitReady(guaranteed)
	if got := d.status(guaranteed).ContainerStatuses[0].ContainerID; got != id {
		t.Error("the container was replaced")
	}

	// A pod that has ended needs none.
	d.waitPhase(bestEffort, v1.PodSucceeded)
	if dirs := d.cgroupsOf(bestEffort); len(dirs) > 0 {
		t.Errorf("left behind by a pod that has ended: %v", dirs)
	}
	d.wait("the cgroup of the pod that is no more to be removed", func() bool { return len(d.cgroupsOf(stale)) == 0 })
	for _, p := range []*v1.Pod{pod, guaranteed, bestEffort} {
		d.remove(p, 0)
	}
}

// TestContainerdWithoutCgroups is a device on which pods cannot have cgroups of their own.
func TestContainerdWithoutCgroups(t *testing.T) {
	d := newDevice(t)
	d.cgroupMount = filepath.Join(d.dir, "not-mounted")
	d.restart()
	plain, limited := newPod("plain", script("main", forever)), newPod("limited-"+uuid.NewString()[:4], script("main", forever))
	limited.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}}
	for _, p := range []*v1.Pod{plain, limited} {
		d.run(p)
		d.waitReady(p)
	}
	const told = "Warning NotEnforced : This device does not enforce spec.resources.limits for the pod as a whole: cgroup of the pod: there are no cgroups at "
	d.sink.mu.Lock()
	events := strings.Join(d.sink.events, "\n")
	d.sink.mu.Unlock()
	if strings.Count(events, "NotEnforced") != 1 || !strings.Contains(events, told) {
		t.Errorf("got events:\n%s", events)
	}
	d.remove(plain, 0)
	d.remove(limited, 0)
}

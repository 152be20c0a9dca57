package pods

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/eviction"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/stats"
)

// keeper runs an eviction manager on the device with what it really has and uses.
func (d *device) keeper(thresholds ...eviction.Threshold) *eviction.Manager {
	d.t.Helper()
	collector := stats.New(stats.Config{
		Runtime: d.runtime, Labels: map[string]string{podutil.LabelManagedBy: DefaultOwner}, StateDir: filepath.Join(d.dir, "state"),
		Local: d.manager.LocalPaths, DiskPeriod: time.Nanosecond,
	})
	d.t.Cleanup(collector.Close)
	m := eviction.New(eviction.Config{
		Thresholds: thresholds, TransitionPeriod: time.Minute, Period: 300 * time.Millisecond,
		Observe: func(ctx context.Context) map[eviction.Signal]eviction.Observation {
			node := collector.Node(ctx)
			return eviction.ObservationsOf(&node)
		},
		Usage: collector.Pods, LayersApart: collector.LayersApart,
		Pods: d.manager, Checks: eviction.LocalStorage(), ReclaimDisk: []func(context.Context) error{d.manager.RemoveDead},
		Event: d.manager.DeviceEvent, Changed: func() {},
	})
	ctx, cancel := context.WithCancel(d.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	d.t.Cleanup(func() { cancel(); <-done })
	return m
}

// evicted waits for a pod's end and checks what is said of it, and what is left.
func (d *device) evicted(pod *v1.Pod, message string, disruption bool) {
	d.t.Helper()
	d.waitPhase(pod, v1.PodFailed)
	s := d.status(pod)
	if s.Reason != "Evicted" || !strings.HasPrefix(s.Message, message) {
		d.t.Errorf("%s: got %s, %q, want Evicted, %q", pod.Name, s.Reason, s.Message, message)
	}
	if conditionIs(s, v1.DisruptionTarget, v1.ConditionTrue) != disruption {
		d.t.Errorf("%s: conditions %v", pod.Name, s.Conditions)
	}
	if !d.sink.hasEvent("Warning Evicted : " + message) {
		d.t.Errorf("no event %q in %q", message, d.sink.events)
	}
	d.wait("nothing of it to be left", func() bool {
		list, err := d.runtime.ListContainers(d.t.Context(), &runtimeapi.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(pod.UID)}})
		return err == nil && len(list) == 0
	})
}

// TestContainerdLocalStorage has pods write more to the device's disk than they may.
func TestContainerdLocalStorage(t *testing.T) {
	d := newDevice(t)
	limit := func(c v1.Container, size string) v1.Container {
		c.Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse(size)}
		return c
	}
	const write = "head -c 4194304 /dev/zero > %; " + forever
	volume := newPod("volume", script("main", strings.ReplaceAll(write, "%", "/data/x")))
	volume.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Mi"))}}}}
	volume.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	logs := newPod("logs", limit(script("main", "head -c 4194304 /dev/zero | tr '\\0' 'x' | fold -w 100; "+forever), "1Mi"), limit(script("other", forever), "100Mi"))
	sum := newPod("sum", limit(script("main", strings.ReplaceAll(write, "%", "/data/x")), "1Mi"))
	sum.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	sum.Spec.Containers[0].VolumeMounts = volume.Spec.Containers[0].VolumeMounts
	within := newPod("within", limit(script("main", "echo little; "+forever), "10Mi"))
	for _, pod := range []*v1.Pod{volume, logs, sum, within} {
		d.run(pod)
	}
	d.waitReady(within)
	m := d.keeper()
	d.evicted(volume, `Usage of EmptyDir volume "data" exceeds the limit "1Mi". `, false)
	d.evicted(logs, `Container main exceeded its local ephemeral storage limit "1Mi". `, false)
	d.evicted(sum, "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ", false)
	if s := d.status(within); s.Phase != v1.PodRunning || m.Pressure(v1.NodeDiskPressure) {
		t.Errorf("the pod that keeps to its limit is %s", s.Phase)
	}
	// An evicted pod stays so, and the reason with it, when the agent starts again.
	d.restart()
	d.manager.ResendStatuses()
	d.waitPhase(volume, v1.PodFailed)
	if s := d.status(volume); s.Reason != "Evicted" || s.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("after a restart: %v", s)
	}
	for _, pod := range []*v1.Pod{volume, logs, sum, within} {
		d.remove(pod, 0)
	}
}

// TestContainerdEvictionOrder declares the device short of memory for good, so that one pod after the
// other has to go.
func TestContainerdEvictionOrder(t *testing.T) {
	d := newDevice(t)
	holding := func(name, size string, priority int32, requests string) *v1.Pod {
		// What lies in a tmpfs is the container's own memory.
		pod := newPod(name, script("main", "head -c "+size+" /dev/zero > /dev/shm/x; touch /dev/shm/done; "+forever))
		pod.Spec.Priority = &priority
		pod.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "-e", "/dev/shm/done"}}}}
		if requests != "" {
			pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(requests)}
		}
		return pod
	}
	small, large := holding("small", "5000000", 0, ""), holding("large", "30000000", 0, "")
	important := holding("important", "40000000", 100, "")
	modest := holding("modest", "20000000", 0, "200Mi") // uses less than it asked for
	critical := holding("critical", "20000000", 2000000000, "")
	all := []*v1.Pod{modest, small, critical, important, large}
	for _, pod := range all {
		d.run(pod)
	}
	for _, pod := range all {
		d.waitReady(pod)
	}
	m := d.keeper(eviction.Threshold{Signal: eviction.MemoryAvailable, Value: config.Threshold{Fraction: 1}})
	var order []string
	for _, pod := range []*v1.Pod{large, small, important, modest} {
		d.evicted(pod, "The node was low on resource: memory. Threshold quantity: ", true)
		if pod != modest && !strings.Contains(d.status(pod).Message, "Container main was using ") {
			t.Errorf("%s: %q does not say how much it used", pod.Name, d.status(pod).Message)
		}
	}
	d.sink.mu.Lock()
	for _, e := range d.sink.events {
		if strings.HasPrefix(e, "Normal Killing") || strings.HasPrefix(e, "Warning Evicted") {
			order = append(order, e[:14])
		}
	}
	d.sink.mu.Unlock()
	if got := strings.Join(order, ","); got != strings.Join([]string{"Warning Evicte", "Normal Killing", "Warning Evicte", "Normal Killing", "Warning Evicte", "Normal Killing", "Warning Evicte", "Normal Killing"}, ",") {
		t.Errorf("not one after the other: %s", got)
	}
	if !m.Pressure(v1.NodeMemoryPressure) || m.Pressure(v1.NodeDiskPressure) {
		t.Error("the conditions do not tell")
	}
	if s := d.status(critical); s.Phase != v1.PodRunning {
		t.Errorf("the critical pod is %s", s.Phase)
	}
	if !d.sink.hasEvent("Warning EvictionThresholdMet : Attempting to reclaim memory") {
		t.Errorf("no event about the device in %q", d.sink.events)
	}
	// Under pressure nothing comes that may go first.
	if reason, message, ok := m.Admit(small); ok || reason != "Evicted" || message != "The node had condition: [MemoryPressure]. " {
		t.Errorf("admitted: %t, %s, %s", ok, reason, message)
	}
	if _, _, ok := m.Admit(modest); !ok {
		t.Error("a pod with requests is refused for memory pressure")
	}
	for _, pod := range all {
		d.remove(pod, 0)
	}
}

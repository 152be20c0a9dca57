package containerd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"arhat.dev/aranya/test/framework/suite"
)

// TestNodeStatus compares what a Node says of a device with the machine that it is.
func TestNodeStatus(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	const name = "device-2"
	reconfigure(t, e, name, "reserved: {cpu: 250m, memory: 128Mi}\nevictionHard: {memory.available: 200Mi}\n")
	var node *corev1.Node
	suite.Eventually(t, suite.PodTimeout, "allocatable is what is left of the capacity", func(ctx context.Context) (err error) {
		if node, err = e.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		capacity, allocatable := node.Status.Capacity, node.Status.Allocatable
		cpu, memory := capacity.Cpu().DeepCopy(), capacity.Memory().DeepCopy()
		cpu.Sub(resource.MustParse("250m"))
		memory.Sub(resource.MustParse("328Mi")) // reserved, and what is evicted for
		if allocatable.Cpu().Cmp(cpu) != 0 || allocatable.Memory().Cmp(memory) != 0 {
			return fmt.Errorf("capacity %v, allocatable %v", capacity, allocatable)
		}
		return nil
	})
	if cpus := node.Status.Capacity.Cpu().Value(); cpus != int64(runtime.NumCPU()) {
		t.Errorf("%d CPUs, but the machine has %d", cpus, runtime.NumCPU())
	}
	info := node.Status.NodeInfo
	if !regexp.MustCompile(`^v1\.37\.\d+-arhat`).MatchString(info.KubeletVersion) || !strings.HasPrefix(info.ContainerRuntimeVersion, "containerd://") ||
		info.OperatingSystem != "linux" || info.Architecture != runtime.GOARCH || info.KernelVersion == "" || info.BootID == "" {
		t.Errorf("node info %+v", info)
	}
	if !slices.ContainsFunc(node.Status.Images, func(i corev1.ContainerImage) bool {
		return slices.Contains(i.Names, suite.BusyboxImage) && i.SizeBytes > 0
	}) {
		t.Errorf("images %v", node.Status.Images)
	}
	for condition, want := range map[corev1.NodeConditionType]corev1.ConditionStatus{corev1.NodeReady: corev1.ConditionTrue,
		corev1.NodeMemoryPressure: corev1.ConditionFalse, corev1.NodeDiskPressure: corev1.ConditionFalse, corev1.NodePIDPressure: corev1.ConditionFalse} {
		if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == condition && c.Status == want }) {
			t.Errorf("condition %s is not %s: %v", condition, want, node.Status.Conditions)
		}
	}
}

// TestStats reads what the container runtime says of a pod, as whoever scrapes Nodes does.
func TestStats(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	pod := suite.Busybox(device, `dd if=/dev/zero of=/dev/shm/x bs=1M count=32 2>/dev/null; dd if=/dev/zero of=/data/x bs=1M count=8 2>/dev/null; while :; do i=$((i+1)); [ $((i%20000)) = 0 ] && sleep 0.1; done`)
	mountAll(pod, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	pod = e.RunPod(t, pod)
	get := func(path string) string {
		t.Helper()
		return e.Kubectl(t, "get", "--raw", "/api/v1/nodes/"+device+"/proxy"+path)
	}
	suite.Eventually(t, suite.PodTimeout, "/stats/summary tells what the pod uses", func(context.Context) error {
		summary := statsapi.Summary{}
		if err := json.Unmarshal([]byte(get("/stats/summary")), &summary); err != nil {
			return err
		}
		if n := summary.Node; n.NodeName != device || n.CPU == nil || n.Memory == nil || n.Memory.WorkingSetBytes == nil || n.Fs == nil || n.Fs.AvailableBytes == nil {
			return fmt.Errorf("node %+v", n)
		}
		i := slices.IndexFunc(summary.Pods, func(p statsapi.PodStats) bool { return p.PodRef.UID == string(pod.UID) })
		if i < 0 || len(summary.Pods[i].Containers) != 1 || len(summary.Pods[i].VolumeStats) != 1 {
			return fmt.Errorf("pods %+v", summary.Pods)
		}
		c, v := summary.Pods[i].Containers[0], summary.Pods[i].VolumeStats[0]
		switch {
		case c.Name != "main" || c.Memory == nil || c.Memory.WorkingSetBytes == nil || *c.Memory.WorkingSetBytes < 32<<20 || *c.Memory.WorkingSetBytes > 200<<20:
			return fmt.Errorf("memory %+v", c.Memory)
		case c.CPU == nil || c.CPU.UsageNanoCores == nil || *c.CPU.UsageNanoCores < 20e6:
			return fmt.Errorf("cpu %+v", c.CPU)
		case v.Name != "data" || v.UsedBytes == nil || *v.UsedBytes < 8<<20:
			return fmt.Errorf("volume %+v", v)
		}
		return nil
	})
	metrics := get("/metrics/resource")
	for _, want := range []string{
		`container_cpu_usage_seconds_total{container="main",namespace="edge",pod="` + pod.Name + `"} `,
		`container_memory_working_set_bytes{container="main",namespace="edge",pod="` + pod.Name + `"} `,
		`pod_memory_working_set_bytes{namespace="edge",pod="` + pod.Name + `"} `, "node_cpu_usage_seconds_total ", "node_memory_working_set_bytes ",
	} {
		if !strings.Contains(metrics, "\n"+want) {
			t.Errorf("no %s in /metrics/resource", want)
		}
	}
}

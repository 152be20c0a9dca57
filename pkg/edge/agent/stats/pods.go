package stats

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/kubelet/pkg/types"
	"k8s.io/utils/ptr"
)

// rateOf turns a counter of CPU time into nano cores.
type rateOf func(id string, at time.Time, nanos uint64) *uint64

// podsOf joins what the runtime tells about sandboxes and containers.
func podsOf(sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container, stats []*runtimeapi.ContainerStats, podStats []*runtimeapi.PodSandboxStats, now time.Time, rate rateOf) []statsapi.PodStats {
	byID := map[string]*runtimeapi.ContainerStats{}
	for _, s := range stats {
		byID[s.GetAttributes().GetId()] = s
	}
	ofSandbox := map[string]*runtimeapi.LinuxPodSandboxStats{}
	for _, s := range podStats {
		ofSandbox[s.GetAttributes().GetId()] = s.GetLinux()
	}
	pods := []statsapi.PodStats{}
	for _, sandbox := range sandboxes {
		pod := statsapi.PodStats{
			PodRef:    statsapi.PodReference{Name: sandbox.GetMetadata().GetName(), Namespace: sandbox.GetMetadata().GetNamespace(), UID: sandbox.GetMetadata().GetUid()},
			StartTime: timeOf(sandbox.CreatedAt),
		}
		for _, c := range containers {
			s := byID[c.Id]
			if c.PodSandboxId != sandbox.Id || s == nil {
				continue
			}
			pod.Containers = append(pod.Containers, containerStats(c, s, rate))
		}
		slices.SortFunc(pod.Containers, func(a, b statsapi.ContainerStats) int { return cmp.Compare(a.Name, b.Name) })
		complete(&pod, sandbox.Id, ofSandbox[sandbox.Id], now, rate)
		pods = append(pods, pod)
	}
	slices.SortFunc(pods, func(a, b statsapi.PodStats) int {
		return cmp.Or(cmp.Compare(a.PodRef.Namespace, b.PodRef.Namespace), cmp.Compare(a.PodRef.Name, b.PodRef.Name), cmp.Compare(a.PodRef.UID, b.PodRef.UID))
	})
	return pods
}

func containerStats(c *runtimeapi.Container, s *runtimeapi.ContainerStats, rate rateOf) statsapi.ContainerStats {
	name := c.Labels[types.KubernetesContainerNameLabel]
	if name == "" {
		name = c.GetMetadata().GetName()
	}
	result := statsapi.ContainerStats{
		Name: name, StartTime: timeOf(c.CreatedAt),
		CPU: cpuStats(c.Id, s.Cpu, rate), Memory: memoryStats(s.Memory), IO: ioStats(s.Io),
	}
	if swap := s.Swap; swap != nil {
		result.Swap = &statsapi.SwapStats{
			Time: timeOf(swap.Timestamp), SwapAvailableBytes: valueOf(swap.SwapAvailableBytes), SwapUsageBytes: valueOf(swap.SwapUsageBytes),
		}
	}
	if layer := s.WritableLayer; layer.GetTimestamp() > 0 { // it has not been measured yet otherwise
		result.Rootfs = &statsapi.FsStats{Time: timeOf(layer.Timestamp), UsedBytes: valueOf(layer.UsedBytes), InodesUsed: valueOf(layer.InodesUsed)}
	}
	return result
}

func cpuStats(id string, cpu *runtimeapi.CpuUsage, rate rateOf) *statsapi.CPUStats {
	if cpu == nil {
		return nil
	}
	result := &statsapi.CPUStats{Time: timeOf(cpu.Timestamp), UsageCoreNanoSeconds: valueOf(cpu.UsageCoreNanoSeconds), UsageNanoCores: valueOf(cpu.UsageNanoCores), PSI: psiStats(cpu.Psi)}
	if result.UsageNanoCores == nil && cpu.UsageCoreNanoSeconds != nil {
		result.UsageNanoCores = rate(id, time.Unix(0, cpu.Timestamp), cpu.UsageCoreNanoSeconds.Value)
	}
	return result
}

func memoryStats(m *runtimeapi.MemoryUsage) *statsapi.MemoryStats {
	if m == nil {
		return nil
	}
	available := valueOf(m.AvailableBytes)
	if ptr.Deref(available, 0) == 0 { // as runtimes say it of a container without a limit
		available = nil
	}
	return &statsapi.MemoryStats{
		Time: timeOf(m.Timestamp), AvailableBytes: available, UsageBytes: valueOf(m.UsageBytes), WorkingSetBytes: valueOf(m.WorkingSetBytes),
		RSSBytes: valueOf(m.RssBytes), PageFaults: valueOf(m.PageFaults), MajorPageFaults: valueOf(m.MajorPageFaults),
		PSI: psiStats(m.Psi),
	}
}

func ioStats(io *runtimeapi.IoUsage) *statsapi.IOStats {
	if io == nil {
		return nil
	}
	return &statsapi.IOStats{Time: timeOf(io.Timestamp), PSI: psiStats(io.Psi)}
}

func psiStats(s *runtimeapi.PsiStats) *statsapi.PSIStats {
	if s == nil {
		return nil
	}
	data := func(d *runtimeapi.PsiData) statsapi.PSIData {
		return statsapi.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &statsapi.PSIStats{Full: data(s.Full), Some: data(s.Some)}
}

// complete adds the figures of the pod as a whole: those of the runtime, or the sum of the
// containers'.
func complete(pod *statsapi.PodStats, id string, s *runtimeapi.LinuxPodSandboxStats, now time.Time, rate rateOf) {
	pod.CPU, pod.Memory, pod.IO = cpuStats(id, s.GetCpu(), rate), memoryStats(s.GetMemory()), ioStats(s.GetIo())
	sum := sumOf(pod.Containers)
	pod.Swap = sum.Swap // runtimes do not tell that of a pod as a whole
	if pod.CPU == nil || pod.CPU.UsageCoreNanoSeconds == nil {
		pod.CPU = sum.CPU
	}
	if pod.Memory == nil || pod.Memory.WorkingSetBytes == nil {
		pod.Memory = sum.Memory
	}
	if n := s.GetProcess().GetProcessCount(); n != nil {
		pod.ProcessStats = &statsapi.ProcessStats{ProcessCount: &n.Value}
	}
	network := s.GetNetwork()
	if network.GetDefaultInterface() == nil {
		return
	}
	at := timeOf(network.Timestamp)
	if network.Timestamp == 0 { // as older versions of containerd say it
		at = metav1.NewTime(now)
	}
	pod.Network = &statsapi.NetworkStats{Time: at, InterfaceStats: interfaceStats(network.DefaultInterface)}
	for _, i := range append([]*runtimeapi.NetworkInterfaceUsage{network.DefaultInterface}, network.Interfaces...) {
		pod.Network.Interfaces = append(pod.Network.Interfaces, interfaceStats(i))
	}
}

func interfaceStats(i *runtimeapi.NetworkInterfaceUsage) statsapi.InterfaceStats {
	return statsapi.InterfaceStats{Name: i.Name, RxBytes: valueOf(i.RxBytes), RxErrors: valueOf(i.RxErrors), TxBytes: valueOf(i.TxBytes), TxErrors: valueOf(i.TxErrors)}
}

// sumOf adds up what is known of the containers.
func sumOf(containers []statsapi.ContainerStats) (sum statsapi.ContainerStats) {
	for _, c := range containers {
		sum.CPU, sum.Memory, sum.Swap = addCPU(sum.CPU, c.CPU), addMemory(sum.Memory, c.Memory), addSwap(sum.Swap, c.Swap)
	}
	return sum
}

func addCPU(sum, c *statsapi.CPUStats) *statsapi.CPUStats {
	switch {
	case c == nil:
		return sum
	case sum == nil:
		sum = &statsapi.CPUStats{Time: c.Time}
	}
	sum.UsageCoreNanoSeconds = add(sum.UsageCoreNanoSeconds, c.UsageCoreNanoSeconds)
	sum.UsageNanoCores = add(sum.UsageNanoCores, c.UsageNanoCores)
	return sum
}

func addMemory(sum, m *statsapi.MemoryStats) *statsapi.MemoryStats {
	switch {
	case m == nil:
		return sum
	case sum == nil:
		sum = &statsapi.MemoryStats{Time: m.Time}
	}
	sum.UsageBytes = add(sum.UsageBytes, m.UsageBytes)
	sum.WorkingSetBytes = add(sum.WorkingSetBytes, m.WorkingSetBytes)
	sum.RSSBytes = add(sum.RSSBytes, m.RSSBytes)
	sum.PageFaults = add(sum.PageFaults, m.PageFaults)
	sum.MajorPageFaults = add(sum.MajorPageFaults, m.MajorPageFaults)
	return sum
}

func addSwap(sum, s *statsapi.SwapStats) *statsapi.SwapStats {
	switch {
	case s == nil:
		return sum
	case sum == nil:
		sum = &statsapi.SwapStats{Time: s.Time}
	}
	sum.SwapAvailableBytes = add(sum.SwapAvailableBytes, s.SwapAvailableBytes)
	sum.SwapUsageBytes = add(sum.SwapUsageBytes, s.SwapUsageBytes)
	return sum
}

func add(a, b *uint64) *uint64 {
	if b == nil {
		return a
	}
	sum := *b
	if a != nil {
		sum += *a
	}
	return &sum
}

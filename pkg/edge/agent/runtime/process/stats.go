package process

import (
	"context"
	"os"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

// nanosecondsPerTick converts the kernel's clock ticks: 100 a second on every Linux that Go runs on.
const nanosecondsPerTick = 10_000_000

// processTable is one look at all processes.
type processTable struct {
	stats    map[int]shim.ProcStat
	children map[int][]int
	at       int64
}

func readProcesses() (*processTable, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	t := &processTable{stats: map[int]shim.ProcStat{}, children: map[int][]int{}, at: now()}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, err := shim.ReadStat(pid); err == nil { // else it has just ended
			t.stats[pid] = s
			t.children[s.PPID] = append(t.children[s.PPID], pid)
		}
	}
	return t, nil
}

// usage sums up a container's processes: everything below its shim, whose own count of ended
// children holds what is gone already. Without the shim it is what lies below the main process.
func (t *processTable) usage(c *container) (cpu, rss, faults, majorFaults, processes uint64) {
	_, started, exit := c.state()
	if started == nil || exit != nil {
		return 0, 0, 0, 0, 0
	}
	main, ok := t.stats[started.PID]
	if !ok || main.StartTicks != started.StartTicks {
		return 0, 0, 0, 0, 0
	}
	todo := []int{started.PID}
	var ticks uint64
	if shim.Alive(c.dir) {
		parent := t.stats[main.PPID]
		ticks = parent.ChildUTime + parent.ChildTime
		todo = t.children[main.PPID]
	}
	for len(todo) > 0 {
		pid := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1:len(todo)-1], t.children[pid]...)
		s := t.stats[pid]
		ticks += s.UTime + s.STime + s.ChildUTime + s.ChildTime
		rss += s.RSSPages * uint64(os.Getpagesize())
		faults += s.MinorFaults
		majorFaults += s.MajorFaults
		processes++
	}
	return ticks * nanosecondsPerTick, rss, faults, majorFaults, processes
}

func (t *processTable) containerStats(c *container) (stats *runtimeapi.ContainerStats, processes uint64) {
	cpu, rss, faults, majorFaults, processes := t.usage(c)
	value := func(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.id, Metadata: c.config.Metadata, Labels: c.config.Labels, Annotations: c.config.Annotations,
		},
		Cpu: &runtimeapi.CpuUsage{Timestamp: t.at, UsageCoreNanoSeconds: value(cpu)},
		Memory: &runtimeapi.MemoryUsage{
			Timestamp: t.at, WorkingSetBytes: value(rss), UsageBytes: value(rss), RssBytes: value(rss),
			PageFaults: value(faults + majorFaults), MajorPageFaults: value(majorFaults),
		},
	}, processes
}

// ContainerStats is a CRI call.
func (r *Runtime) ContainerStats(_ context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := r.running(id)
	if err != nil {
		return nil, err
	}
	table, err := readProcesses()
	if err != nil {
		return nil, err
	}
	stats, _ := table.containerStats(c)
	return stats, nil
}

// ListContainerStats is a CRI call.
func (r *Runtime) ListContainerStats(_ context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	table, err := readProcesses()
	if err != nil {
		return nil, err
	}
	var list []*runtimeapi.ContainerStats
	for _, c := range r.runningContainers() {
		if matchID(filter.GetId(), c.id) && matchID(filter.GetPodSandboxId(), c.sandboxID) && matchLabels(filter.GetLabelSelector(), c.config.Labels) {
			stats, _ := table.containerStats(c)
			list = append(list, stats)
		}
	}
	return list, nil
}

func (r *Runtime) runningContainers() (list []*container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if state, _, _ := c.state(); state == runtimeapi.ContainerState_CONTAINER_RUNNING {
			list = append(list, c)
		}
	}
	return list
}

// ListPodSandboxStats is a CRI call. It sums up the containers of sandboxes. There is no network of a pod's own to count.
func (r *Runtime) ListPodSandboxStats(_ context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	table, err := readProcesses()
	if err != nil {
		return nil, err
	}
	running := r.runningContainers()
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*runtimeapi.PodSandboxStats
	for _, s := range r.sandboxes {
		if !s.ready || !matchID(filter.GetId(), s.id) || !matchLabels(filter.GetLabelSelector(), s.config.Labels) {
			continue
		}
		linux := &runtimeapi.LinuxPodSandboxStats{}
		var cpu, memory, processes uint64
		for _, c := range running {
			if c.sandboxID != s.id {
				continue
			}
			stats, n := table.containerStats(c)
			cpu += stats.Cpu.UsageCoreNanoSeconds.Value
			memory += stats.Memory.WorkingSetBytes.Value
			processes += n
			linux.Containers = append(linux.Containers, stats)
		}
		value := func(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
		linux.Cpu = &runtimeapi.CpuUsage{Timestamp: table.at, UsageCoreNanoSeconds: value(cpu)}
		linux.Memory = &runtimeapi.MemoryUsage{Timestamp: table.at, WorkingSetBytes: value(memory), UsageBytes: value(memory), RssBytes: value(memory)}
		linux.Process = &runtimeapi.ProcessUsage{Timestamp: table.at, ProcessCount: value(processes)}
		list = append(list, &runtimeapi.PodSandboxStats{
			Attributes: &runtimeapi.PodSandboxAttributes{Id: s.id, Metadata: s.config.Metadata, Labels: s.config.Labels, Annotations: s.config.Annotations},
			Linux:      linux,
		})
	}
	return list, nil
}

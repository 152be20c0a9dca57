// Package stats measures what a device and its pods use, in the terms of the kubelet's summary API.
// Containers are measured by the container runtime, the device by the kernel's own files. What the
// runtime does not tell is left out of the answer, never made up.
package stats

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

const (
	// callTimeout bounds the calls to the container runtime.
	callTimeout = 20 * time.Second
	// minWindow and maxWindow bound the time over which a rate is averaged.
	minWindow = time.Second
	maxWindow = 10 * time.Minute
)

// Config is what a Collector works with.
type Config struct {
	Runtime runtime.Runtime
	// Labels select the sandboxes and containers that are the agent's.
	Labels map[string]string
	// StateDir lies in the file system that the node's figures are about.
	StateDir string
	// Local tells where a pod keeps data on the device's disk. Without it nothing is said about that.
	Local func(podUID string) LocalPaths
	// DiskPeriod is for how long the size of a directory is not measured again. Defaults to a minute.
	DiskPeriod time.Duration
	// Clock defaults to the real one.
	Clock clock.PassiveClock

	// Machine is taken for the machine instead of what it is at the moment.
	Machine *Snapshot

	root string // of the kernel's files; tests have their own
}

// Collector measures. Its methods may be called concurrently.
type Collector struct {
	config Config
	disk   *disk

	mu       sync.Mutex
	nodeName string
	usage    sample            // of the node, for Usage
	samples  map[string]sample // of the node ("") and of containers by id, for Summary
}

// sample is a counter of CPU time at a moment.
type sample struct {
	at    time.Time
	nanos uint64
	rate  *uint64 // nano cores, over the window that ended here
}

// New returns a Collector.
func New(c Config) *Collector {
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.root == "" {
		c.root = "/"
	}
	if c.DiskPeriod <= 0 {
		c.DiskPeriod = DefaultDiskPeriod
	}
	return &Collector{config: c, disk: newDisk(c.Clock, c.DiskPeriod), samples: map[string]sample{}}
}

// Close ends what goes on in the background. Nothing may be asked after it.
func (c *Collector) Close() { c.disk.close() }

// SetNodeName sets the name of the device's Node.
func (c *Collector) SetNodeName(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodeName = name
}

// Usage is what the device uses: CPU averaged since the last call, and the memory that cannot be
// reclaimed. It is 0 if it is not known.
func (c *Collector) Usage() (cpuNanoCores, memoryBytes uint64) {
	m := c.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.usage = next(c.usage, c.config.Clock.Now(), m.cpuNanos)
	return ptr.Deref(c.usage.rate, 0), m.memoryWorkingSet
}

// next makes a sample of a counter. A window that is too short keeps the last rate.
func next(last sample, now time.Time, nanos uint64) sample {
	window := now.Sub(last.at)
	switch {
	case last.at.IsZero() || window > maxWindow || window < 0 || nanos < last.nanos: // or the clock was set back
		return sample{at: now, nanos: nanos}
	case window < minWindow:
		return last
	}
	rate := uint64(float64(nanos-last.nanos) / window.Seconds())
	return sample{at: now, nanos: nanos, rate: &rate}
}

// Summary measures the device and its pods. It succeeds without the container runtime: the pods are
// missing then.
func (c *Collector) Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sandboxes, containers, stats, podStats, err := c.ask(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	now := c.config.Clock.Now()
	summary := c.summarize(now, sandboxes, containers, stats, podStats, err == nil)
	if onlyCPUAndMemory {
		reduce(summary)
		return summary, nil
	}
	pods := make([]*statsapi.PodStats, len(summary.Pods))
	for i := range summary.Pods {
		pods[i] = &summary.Pods[i]
	}
	c.addLocal(ctx, pods, now, true)
	summary.Node.Fs = fsStats(c.config.StateDir, now)
	summary.Node.Runtime = c.imageFs(ctx, now)
	return summary, nil
}

// Pods measures the pods alone, by UID, and what those of onDisk keep on the disk: as it was last known, unless it
// shall wait for that. Without the container runtime it fails.
func (c *Collector) Pods(ctx context.Context, onDisk sets.Set[string], wait bool) (map[string]*statsapi.PodStats, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sandboxes, containers, stats, podStats, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	now := c.config.Clock.Now()
	summary := c.summarize(now, sandboxes, containers, stats, podStats, true)
	byUID := make(map[string]*statsapi.PodStats, len(summary.Pods))
	var local []*statsapi.PodStats
	for i := range summary.Pods {
		pod := &summary.Pods[i]
		byUID[pod.PodRef.UID] = pod
		if onDisk.Has(pod.PodRef.UID) {
			local = append(local, pod)
		}
	}
	c.addLocal(ctx, local, now, wait)
	return byUID, nil
}

// Node measures the device without asking about pods. What is not known is left out.
func (c *Collector) Node(ctx context.Context) statsapi.NodeStats {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now := c.config.Clock.Now()
	m := c.read()
	stats := m.nodeStats("", now, nil)
	stats.Fs = fsStats(c.config.StateDir, now)
	stats.Runtime = c.imageFs(ctx, now)
	return stats
}

// summarize makes a summary of what was told. Complete says whether that is everything.
func (c *Collector) summarize(now time.Time, sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container, stats []*runtimeapi.ContainerStats, podStats []*runtimeapi.PodSandboxStats, complete bool) *statsapi.Summary {
	m := c.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	samples := map[string]sample{"": next(c.samples[""], now, m.cpuNanos)}
	rate := func(id string, at time.Time, nanos uint64) *uint64 {
		samples[id] = next(c.samples[id], at, nanos)
		return samples[id].rate
	}
	summary := &statsapi.Summary{
		Node: m.nodeStats(c.nodeName, now, samples[""].rate),
		Pods: podsOf(sandboxes, containers, stats, podStats, now, rate),
	}
	if complete {
		c.samples = samples
	} else {
		// The samples of containers are kept: the runtime is only away. The node's figures are worth having.
		maps.Copy(c.samples, samples)
	}
	return summary
}

// ask gets everything that the runtime tells. Figures of pods are left out if it does not tell them: older
// runtimes do not know the call, and containerd fails it for all pods if one has no cgroup of its own.
func (c *Collector) ask(ctx context.Context) (sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container, stats []*runtimeapi.ContainerStats, pods []*runtimeapi.PodSandboxStats, err error) {
	r := c.config.Runtime
	sandboxes, err = r.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{
		LabelSelector: c.config.Labels, State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	})
	if err == nil {
		containers, err = r.ListContainers(ctx, &runtimeapi.ContainerFilter{
			LabelSelector: c.config.Labels, State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
		})
	}
	if err == nil {
		stats, err = r.ListContainerStats(ctx, &runtimeapi.ContainerStatsFilter{LabelSelector: c.config.Labels})
	}
	if err != nil {
		return nil, nil, nil, nil, fmt.Errorf("the container runtime tells no figures: %w", err)
	}
	var podErr error // cri-client would log it each time
	if pods, podErr = r.ListPodSandboxStats(logr.NewContext(ctx, logr.Discard()), &runtimeapi.PodSandboxStatsFilter{LabelSelector: c.config.Labels}); podErr != nil {
		klog.FromContext(ctx).V(4).Info("The container runtime tells no figures of pods as a whole", "err", podErr)
		pods = nil
	}
	return sandboxes, containers, stats, pods, nil
}

// reduce leaves only CPU and memory, with what of that is swapped out.
func reduce(s *statsapi.Summary) {
	s.Node = statsapi.NodeStats{NodeName: s.Node.NodeName, StartTime: s.Node.StartTime, CPU: s.Node.CPU, Memory: s.Node.Memory, Swap: s.Node.Swap}
	for i := range s.Pods {
		p := &s.Pods[i]
		*p = statsapi.PodStats{PodRef: p.PodRef, StartTime: p.StartTime, Containers: p.Containers, CPU: p.CPU, Memory: p.Memory, Swap: p.Swap}
		for j := range p.Containers {
			k := &p.Containers[j]
			*k = statsapi.ContainerStats{Name: k.Name, StartTime: k.StartTime, CPU: k.CPU, Memory: k.Memory, Swap: k.Swap}
		}
	}
}

func valueOf(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func timeOf(nanos int64) metav1.Time { return metav1.NewTime(time.Unix(0, nanos)) }

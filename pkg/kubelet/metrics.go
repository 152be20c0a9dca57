package kubelet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

// Names and labels are those of the kubelet's own /metrics/resource: metrics-server and others go by
// them.
var (
	podLabels       = []string{"pod", "namespace"}
	containerLabels = []string{"container", "pod", "namespace"}

	nodeCPU    = desc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil)
	nodeMemory = desc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil)
	nodeSwap   = desc("node_swap_usage_bytes", "Current swap usage of the node in bytes", nil)

	podCPU    = desc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", podLabels)
	podMemory = desc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", podLabels)
	podSwap   = desc("pod_swap_usage_bytes", "Current swap usage of the pod in bytes", podLabels)

	containerCPU       = desc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", containerLabels)
	containerMemory    = desc("container_memory_working_set_bytes", "Current working set of the container in bytes", containerLabels)
	containerSwap      = desc("container_swap_usage_bytes", "Current swap usage of the container in bytes", containerLabels)
	containerSwapLimit = desc("container_swap_limit_bytes", "Current swap limit of the container in bytes", containerLabels)
	containerStart     = desc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", containerLabels)

	scrapeError = desc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil)
)

func desc(name, help string, labels []string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// resourceMetrics is a collector of one summary; of a failed scrape if that is nil.
type resourceMetrics struct{ summary *stats.Summary }

// Describe implements prometheus.Collector. The collector lives for one request: it is unchecked.
func (resourceMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m resourceMetrics) Collect(ch chan<- prometheus.Metric) {
	if m.summary == nil {
		ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 1)
		return
	}
	ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 0)
	node := m.summary.Node
	usage(ch, nodeCPU, nodeMemory, nodeSwap, node.CPU, node.Memory, node.Swap)
	for i := range m.summary.Pods {
		pod := &m.summary.Pods[i]
		name, namespace := pod.PodRef.Name, pod.PodRef.Namespace
		usage(ch, podCPU, podMemory, podSwap, pod.CPU, pod.Memory, pod.Swap, name, namespace)
		seen := map[string]bool{}
		for j := range pod.Containers {
			c := &pod.Containers[j]
			if seen[c.Name] {
				continue // a duplicate would spoil the whole answer
			}
			seen[c.Name] = true
			usage(ch, containerCPU, containerMemory, containerSwap, c.CPU, c.Memory, c.Swap, c.Name, name, namespace)
			if s := c.Swap; s != nil && s.SwapAvailableBytes != nil {
				limit := float64(*s.SwapAvailableBytes) + float64(ptr.Deref(s.SwapUsageBytes, 0))
				ch <- prometheus.NewMetricWithTimestamp(s.Time.Time, prometheus.MustNewConstMetric(containerSwapLimit, prometheus.GaugeValue, limit, c.Name, name, namespace))
			}
			if c.StartTime.Unix() > 0 {
				ch <- prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue, float64(c.StartTime.UnixNano())/float64(time.Second), c.Name, name, namespace)
			}
		}
	}
}

// usage sends what is known of the usage of a node, pod or container, with the time it was measured.
func usage(ch chan<- prometheus.Metric, cpuDesc, memoryDesc, swapDesc *prometheus.Desc, cpu *stats.CPUStats, memory *stats.MemoryStats, swap *stats.SwapStats, labels ...string) {
	if cpu != nil && cpu.UsageCoreNanoSeconds != nil {
		ch <- prometheus.NewMetricWithTimestamp(cpu.Time.Time, prometheus.MustNewConstMetric(cpuDesc, prometheus.CounterValue, float64(*cpu.UsageCoreNanoSeconds)/float64(time.Second), labels...))
	}
	if memory != nil && memory.WorkingSetBytes != nil {
		ch <- prometheus.NewMetricWithTimestamp(memory.Time.Time, prometheus.MustNewConstMetric(memoryDesc, prometheus.GaugeValue, float64(*memory.WorkingSetBytes), labels...))
	}
	if swap != nil && swap.SwapUsageBytes != nil {
		ch <- prometheus.NewMetricWithTimestamp(swap.Time.Time, prometheus.MustNewConstMetric(swapDesc, prometheus.GaugeValue, float64(*swap.SwapUsageBytes), labels...))
	}
}

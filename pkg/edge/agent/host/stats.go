package host

import (
	"context"
	"encoding/json"
	"time"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

func (h *Host) stats(ctx context.Context, r *edgeapi.Stats, s *stream.Stream) error {
	closeStdin(s)
	summary, err := h.config.Summary(ctx, r.GetOnlyCpuAndMemory())
	if err != nil {
		return err
	}
	data, err := json.Marshal(precise(summary))
	if err != nil {
		return err
	}
	if err := s.Ready(); err != nil {
		return err
	}
	_, err = s.Writer(edgeapi.Channel_STDOUT).Write(data)
	return err
}

// The types below are encoded as those that they embed, but keep the fraction of a second in the times of CPU, memory
// and swap, by which rates are reckoned, and of starts: metav1.Time reads it, but does not write it.
type (
	summaryOut struct {
		Node nodeOut  `json:"node"`
		Pods []podOut `json:"pods"`
	}
	nodeOut struct {
		*statsapi.NodeStats
		StartTime time.Time  `json:"startTime"`
		CPU       *cpuOut    `json:"cpu,omitempty"`
		Memory    *memoryOut `json:"memory,omitempty"`
		Swap      *swapOut   `json:"swap,omitempty"`
	}
	podOut struct {
		*statsapi.PodStats
		StartTime  time.Time      `json:"startTime"`
		Containers []containerOut `json:"containers"`
		CPU        *cpuOut        `json:"cpu,omitempty"`
		Memory     *memoryOut     `json:"memory,omitempty"`
		Swap       *swapOut       `json:"swap,omitempty"`
	}
	containerOut struct {
		*statsapi.ContainerStats
		StartTime time.Time  `json:"startTime"`
		CPU       *cpuOut    `json:"cpu,omitempty"`
		Memory    *memoryOut `json:"memory,omitempty"`
		Swap      *swapOut   `json:"swap,omitempty"`
	}
	cpuOut struct {
		*statsapi.CPUStats
		Time time.Time `json:"time"`
	}
	memoryOut struct {
		*statsapi.MemoryStats
		Time time.Time `json:"time"`
	}
	swapOut struct {
		*statsapi.SwapStats
		Time time.Time `json:"time"`
	}
)

// precise is a summary to be encoded with its times as they are.
func precise(s *statsapi.Summary) *summaryOut {
	n := &s.Node
	out := &summaryOut{
		Node: nodeOut{NodeStats: n, StartTime: n.StartTime.UTC(), CPU: preciseCPU(n.CPU), Memory: preciseMemory(n.Memory), Swap: preciseSwap(n.Swap)},
		Pods: make([]podOut, len(s.Pods)),
	}
	for i := range s.Pods {
		p := &s.Pods[i]
		out.Pods[i] = podOut{
			PodStats: p, StartTime: p.StartTime.UTC(), Containers: make([]containerOut, len(p.Containers)),
			CPU: preciseCPU(p.CPU), Memory: preciseMemory(p.Memory), Swap: preciseSwap(p.Swap),
		}
		for j := range p.Containers {
			c := &p.Containers[j]
			out.Pods[i].Containers[j] = containerOut{
				ContainerStats: c, StartTime: c.StartTime.UTC(), CPU: preciseCPU(c.CPU), Memory: preciseMemory(c.Memory), Swap: preciseSwap(c.Swap),
			}
		}
	}
	return out
}

func preciseCPU(s *statsapi.CPUStats) *cpuOut {
	if s == nil {
		return nil
	}
	return &cpuOut{s, s.Time.UTC()}
}

func preciseMemory(s *statsapi.MemoryStats) *memoryOut {
	if s == nil {
		return nil
	}
	return &memoryOut{s, s.Time.UTC()}
}

func preciseSwap(s *statsapi.SwapStats) *swapOut {
	if s == nil {
		return nil
	}
	return &swapOut{s, s.Time.UTC()}
}

package host

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"sigs.k8s.io/randfill"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// askStats returns what the other side reads of a summary.
func askStats(t *testing.T, summary *statsapi.Summary) *statsapi.Summary {
	t.Helper()
	h := newHost(t)
	h.config.Summary = func(context.Context, bool) (*statsapi.Summary, error) { return summary, nil }
	s := open(t, h, &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Stats{Stats: &edgeapi.Stats{}}})
	stdout, _, result := s.finish()
	read := &statsapi.Summary{}
	if err := json.Unmarshal([]byte(stdout), read); err != nil || result.GetReason() != "" {
		t.Fatalf("got %q, %v, %v", stdout, result, err)
	}
	return read
}

// TestStats checks that all of a summary arrives.
func TestStats(t *testing.T) {
	fill := randfill.NewWithSeed(1).NilChance(0.3).NumElements(0, 3).Funcs(
		func(at *metav1.Time, c randfill.Continue) { *at = metav1.Unix(c.Int63n(1<<31), 0) },
	)
	for range 20 {
		summary := &statsapi.Summary{}
		fill.Fill(summary)
		if got := askStats(t, summary); !apiequality.Semantic.DeepEqual(got, summary) {
			t.Errorf("got %+v, want %+v", got, summary)
		}
	}
	if got := askStats(t, &statsapi.Summary{}); !apiequality.Semantic.DeepEqual(got, &statsapi.Summary{}) {
		t.Errorf("got %+v of an empty one", got)
	}
}

// TestTimesOfStats checks that the times by which rates are reckoned are not rounded.
func TestTimesOfStats(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC))
	cpu, memory, swap := &statsapi.CPUStats{Time: at}, &statsapi.MemoryStats{Time: at}, &statsapi.SwapStats{Time: at}
	got := askStats(t, &statsapi.Summary{
		Node: statsapi.NodeStats{StartTime: at, CPU: cpu, Memory: memory, Swap: swap},
		Pods: []statsapi.PodStats{{
			StartTime: at, CPU: cpu, Memory: memory, Swap: swap,
			Containers: []statsapi.ContainerStats{{StartTime: at, CPU: cpu, Memory: memory, Swap: swap}},
		}},
	})
	node, pod, container := got.Node, got.Pods[0], got.Pods[0].Containers[0]
	for name, times := range map[string][]metav1.Time{
		"node":      {node.StartTime, node.CPU.Time, node.Memory.Time, node.Swap.Time},
		"pod":       {pod.StartTime, pod.CPU.Time, pod.Memory.Time, pod.Swap.Time},
		"container": {container.StartTime, container.CPU.Time, container.Memory.Time, container.Swap.Time},
	} {
		for i, got := range times {
			if !got.Equal(&at) {
				t.Errorf("time %d of the %s is %v, want %v", i, name, got.Time, at.Time)
			}
		}
	}
}

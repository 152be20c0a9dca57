package eviction

import (
	"context"
	"fmt"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

// TestRankOfUnknownDisk has pods whose disk could not be measured in time: they count as large, but priority comes first.
func TestRankOfUnknownDisk(t *testing.T) {
	for _, resource := range []v1.ResourceName{v1.ResourceEphemeralStorage, resourceInodes} {
		d := newDevice()
		priority := func(n int32) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Priority = ptr.To(n) } }
		d.pod("small", 10)
		d.pod("important", 0, priority(100))
		d.pod("large", 1<<40)
		d.pod("slow", 0)
		d.pod("without figures", 0, priority(100))
		d.stats["important"] = &statsapi.PodStats{}
		d.stats["slow"] = &statsapi.PodStats{}
		delete(d.stats, "without figures")
		rank(d.pods, d.stats, resource, allFiles)
		var order []string
		for _, pod := range d.pods {
			order = append(order, pod.Name)
		}
		if want := []string{"without figures", "slow", "large", "small", "important"}; !slices.Equal(order, want) {
			t.Errorf("%s: got %q, want %q", resource, order, want)
		}
	}
}

// TestRankByFileSystem has pods that fill one file system each, which makes no room in the other.
func TestRankByFileSystem(t *testing.T) {
	for _, tt := range []struct {
		signal Signal
		apart  bool
		want   string
	}{
		{NodeFsAvailable, false, "layer"},
		{NodeFsInodesFree, false, "layer"},
		{ImageFsAvailable, false, "layer"},
		{ImageFsInodesFree, false, "layer"},
		{NodeFsAvailable, true, "volume"},
		{NodeFsInodesFree, true, "volume"},
		{ImageFsAvailable, true, "layer"},
		{ImageFsInodesFree, true, "layer"},
	} {
		t.Run(fmt.Sprintf("%s, apart %t", tt.signal, tt.apart), func(t *testing.T) {
			d := newDevice(threshold(tt.signal, 100))
			d.config.LayersApart = func(context.Context) bool { return tt.apart }
			for name, size := range map[string]struct{ layer, rest uint64 }{
				"layer": {300, 1}, "volume": {1, 200}, "small": {10, 10},
			} {
				d.pod(name, size.layer+size.rest)
				d.stats[name].Containers = []statsapi.ContainerStats{{Name: "main", Rootfs: &statsapi.FsStats{UsedBytes: &size.layer, InodesUsed: &size.layer}}}
			}
			d.left[tt.signal] = Observation{Available: 99, Capacity: 1000}
			d.once(t.Context())
			if !slices.Equal(d.evicted, []string{tt.want}) {
				t.Errorf("evicted %q, want %s", d.evicted, tt.want)
			}
		})
	}
}

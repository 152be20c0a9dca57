package eviction

import statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

// ObservationsOf reads what is left on a device out of its figures.
func ObservationsOf(node *statsapi.NodeStats) map[Signal]Observation {
	observed := map[Signal]Observation{}
	set := func(signal Signal, available, capacity *uint64) {
		if available != nil && capacity != nil && *capacity > 0 {
			observed[signal] = Observation{Available: *available, Capacity: *capacity}
		}
	}
	if m := node.Memory; m != nil && m.AvailableBytes != nil && m.WorkingSetBytes != nil {
		capacity := *m.AvailableBytes + *m.WorkingSetBytes
		set(MemoryAvailable, m.AvailableBytes, &capacity)
	}
	if fs := node.Fs; fs != nil {
		set(NodeFsAvailable, fs.AvailableBytes, fs.CapacityBytes)
		set(NodeFsInodesFree, fs.InodesFree, fs.Inodes)
	}
	if node.Runtime != nil && node.Runtime.ImageFs != nil {
		fs := node.Runtime.ImageFs
		set(ImageFsAvailable, fs.AvailableBytes, fs.CapacityBytes)
		set(ImageFsInodesFree, fs.InodesFree, fs.Inodes)
	}
	if r := node.Rlimit; r != nil && r.MaxPID != nil && r.NumOfRunningProcesses != nil {
		capacity := uint64(max(*r.MaxPID, 0))
		available := capacity - min(uint64(max(*r.NumOfRunningProcesses, 0)), capacity)
		set(PIDAvailable, &available, &capacity)
	}
	return observed
}

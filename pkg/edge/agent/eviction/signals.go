package eviction

import (
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"arhat.dev/aranya/pkg/edge/agent/config"
)

// Signal is something that can run out. The names are the kubelet's.
type Signal string

// The signals. File systems are the one of pods' own data and the one of images, which may be the same.
const (
	MemoryAvailable   Signal = "memory.available"
	NodeFsAvailable   Signal = "nodefs.available"
	NodeFsInodesFree  Signal = "nodefs.inodesFree"
	ImageFsAvailable  Signal = "imagefs.available"
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// What pods use up, as it is called in messages.
const (
	resourceInodes v1.ResourceName = "inodes"
	resourcePIDs   v1.ResourceName = "pids"
)

// kinds say what each signal is about.
var kinds = map[Signal]struct {
	condition v1.NodeConditionType
	resource  v1.ResourceName
}{
	MemoryAvailable:   {v1.NodeMemoryPressure, v1.ResourceMemory},
	NodeFsAvailable:   {v1.NodeDiskPressure, v1.ResourceEphemeralStorage},
	NodeFsInodesFree:  {v1.NodeDiskPressure, resourceInodes},
	ImageFsAvailable:  {v1.NodeDiskPressure, v1.ResourceEphemeralStorage},
	ImageFsInodesFree: {v1.NodeDiskPressure, resourceInodes},
	PIDAvailable:      {v1.NodePIDPressure, resourcePIDs},
}

// Observation is how much of something is left. A capacity of 0 says that it is not known.
type Observation struct {
	Available, Capacity uint64
}

// Threshold is how little may be left.
type Threshold struct {
	Signal Signal
	Value  config.Threshold
	// Grace is how long less may be left; 0 makes it a hard threshold.
	Grace time.Duration
	// MinReclaim must be left beyond Value for it to be over.
	MinReclaim config.Threshold
}

// met tells whether less is left. Unresolved asks for the minimum reclaim as well.
func (t *Threshold) met(o Observation, unresolved bool) bool {
	if o.Capacity == 0 {
		return false
	}
	limit := t.Value.Of(o.Capacity)
	if unresolved {
		limit += t.MinReclaim.Of(o.Capacity)
	}
	return o.Available < limit
}

// Reservation is what the hard thresholds keep from pods: it must not count as allocatable.
func Reservation(thresholds []Threshold, capacity v1.ResourceList) v1.ResourceList {
	reserved := v1.ResourceList{}
	for i := range thresholds {
		t := &thresholds[i]
		if t.Grace > 0 {
			continue
		}
		if name := kinds[t.Signal].resource; t.Signal == MemoryAvailable || t.Signal == NodeFsAvailable {
			whole := capacity[name]
			reserved[name] = *resource.NewQuantity(int64(t.Value.Of(uint64(whole.Value()))), resource.BinarySI)
		}
	}
	return reserved
}

// ThresholdsOf reads the configuration, which must be valid. Hard thresholds come first. On a device with
// less than 1 GiB the default for memory would leave nothing to use: it is 10 % there.
func ThresholdsOf(h *config.Housekeeping, memory uint64) []Threshold {
	var list []Threshold
	add := func(values map[string]string, grace func(signal string) time.Duration) {
		for _, signal := range slices.Sorted(maps.Keys(values)) {
			value, err := config.ParseThreshold(values[signal])
			if err != nil || value == (config.Threshold{}) {
				continue // 0 switches it off
			}
			t := Threshold{Signal: Signal(signal), Value: value, Grace: grace(signal)}
			if text := h.EvictionMinimumReclaim[signal]; text != "" {
				t.MinReclaim, _ = config.ParseThreshold(text) // it is valid
			}
			list = append(list, t)
		}
	}
	hard := maps.Clone(h.EvictionHard)
	if h.EvictionHardIsDefault() && memory > 0 && memory < 1<<30 {
		hard[string(MemoryAvailable)] = "10%"
	}
	add(hard, func(string) time.Duration { return 0 })
	add(h.EvictionSoft, h.SoftGracePeriod)
	return list
}

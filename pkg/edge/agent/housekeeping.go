package agent

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/edge/agent/eviction"
	"arhat.dev/aranya/pkg/edge/agent/images"
)

// keepHouse prepares what keeps the device usable: the removal of images, and eviction.
func (a *Agent) keepHouse(ctx context.Context) {
	h := &a.config.Housekeeping
	a.images = images.NewCollector(a.runtime, clock.RealClock{}, images.GCPolicy{
		HighThresholdPercent: *h.ImageGCHighThresholdPercent, LowThresholdPercent: *h.ImageGCLowThresholdPercent,
		MinAge: h.MinimumGCAge(), MaxAge: h.MaximumGCAge(),
	}, a.pods.Images, a.pods.DeviceEvent)

	observe := func(ctx context.Context) map[eviction.Signal]eviction.Observation {
		figures := a.stats.Node(ctx)
		return eviction.ObservationsOf(&figures)
	}
	a.eviction = eviction.New(eviction.Config{
		Thresholds:       eviction.ThresholdsOf(h, observe(ctx)[eviction.MemoryAvailable].Capacity),
		TransitionPeriod: h.PressureTransitionPeriod(),
		MaxPodGrace:      int64(h.EvictionMaxPodGracePeriod),
		Observe:          observe,
		Usage:            a.stats.Pods,
		LayersApart:      a.stats.LayersApart,
		Pods:             a.pods,
		Checks:           eviction.LocalStorage(),
		ReclaimDisk:      []func(context.Context) error{a.pods.RemoveDead, a.images.DeleteUnused},
		Event:            a.pods.DeviceEvent,
		Changed:          a.node.Poke,
		Period:           a.seams.Period,
	})
}

// reserved is what pods cannot have of the device: what its owner keeps from them, and what must be left
// so that no pod is evicted.
func (a *Agent) reserved(capacity v1.ResourceList) v1.ResourceList {
	memory := capacity[v1.ResourceMemory]
	thresholds := eviction.ThresholdsOf(&a.config.Housekeeping, uint64(memory.Value()))
	list := a.config.Reserved.List()
	for name, kept := range eviction.Reservation(thresholds, capacity) {
		kept.Add(list[name])
		list[name] = kept
	}
	return list
}

// checkReserved refuses a configuration that keeps more from pods than there is: it would end those that run.
func (a *Agent) checkReserved(capacity v1.ResourceList) error {
	var errs field.ErrorList
	reserved, kept := &a.config.Reserved, a.reserved(capacity)
	for _, r := range []struct {
		name   v1.ResourceName
		value  string
		signal eviction.Signal
	}{
		{v1.ResourceCPU, reserved.CPU, ""},
		{v1.ResourceMemory, reserved.Memory, eviction.MemoryAvailable},
		{v1.ResourceEphemeralStorage, reserved.EphemeralStorage, eviction.NodeFsAvailable},
	} {
		whole, all := capacity[r.name], kept[r.name]
		if whole.IsZero() || all.Cmp(whole) <= 0 { // one that could not be measured is 0
			continue
		}
		all.Sub(resource.MustParse(r.value))
		if all.Cmp(whole) >= 0 { // eviction leaves nothing to reserve of
			at := field.NewPath("evictionHard").Key(string(r.signal))
			errs = append(errs, field.Invalid(at, a.config.EvictionHard[string(r.signal)], fmt.Sprintf("must be less than what the device has, %s", &whole)))
			continue
		}
		most := fmt.Sprintf("must be at most what the device has, %s", &whole)
		if !all.IsZero() {
			most += fmt.Sprintf(", less what evictionHard keeps free, %s", &all)
		}
		errs = append(errs, field.Invalid(field.NewPath("reserved", string(r.name)), r.value, most))
	}
	if len(errs) > 0 {
		return fmt.Errorf("the configuration is not valid: %w", errs.ToAggregate())
	}
	return nil
}

// underPressure is asked by the Node's conditions, from before there is anybody to ask.
func (a *Agent) underPressure(condition v1.NodeConditionType) bool {
	return a.eviction != nil && a.eviction.Pressure(condition)
}

// admit refuses pods that the device's policy forbids, or that it has no resources for at the moment.
// Those that it runs already are the business of eviction, which stops one at a time.
func (a *Agent) admit(pod *v1.Pod, known bool) (reason, message string, ok bool) {
	if reason, message, ok = admitter(&a.config.Policy)(pod); !ok || known {
		return reason, message, ok
	}
	return a.eviction.Admit(pod)
}

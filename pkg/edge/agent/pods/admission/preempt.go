package admission

import (
	"cmp"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

// Preempt makes room for a critical pod that Claim has refused, as the kubelet does: it returns the pods that have
// to go for it, none if those suffice that are on their way out. What the pod asks for is kept for it until they
// are gone, and Claim grants it. It is false if it is not for want of resources that the pod was refused, or if
// there would not be enough of them without all those that may be preempted.
func (l *Ledger) Preempt(pod *v1.Pod, leaving sets.Set[string]) (victims []string, ok bool) {
	uid, wanted := string(pod.UID), claimOf(pod)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.claims, uid)
	if !wanted.critical || wrongOS(pod) || l.portTaken(uid, wanted) {
		return nil, false
	}
	missing := l.shortages(uid, wanted, leaving)
	byClass := map[v1.PodQOSClass][]string{}
	for _, other := range slices.Sorted(maps.Keys(l.claims)) {
		if c := l.claims[other]; !leaving.Has(other) && wanted.preempts(c) {
			byClass[c.qos] = append(byClass[c.qos], other)
		}
	}
	bestEffort, burstable, guaranteed := byClass[v1.PodQOSBestEffort], byClass[v1.PodQOSBurstable], byClass[v1.PodQOSGuaranteed]
	if len(l.without(missing, bestEffort, burstable, guaranteed)) > 0 {
		return nil, false
	}
	// Of each class only as many as the lower ones cannot make up for; then of these only what is still missing.
	guaranteed = l.closest(guaranteed, l.without(missing, bestEffort, burstable))
	burstable = l.closest(burstable, l.without(missing, bestEffort, guaranteed))
	bestEffort = l.closest(bestEffort, l.without(missing, burstable, guaranteed))
	l.claims[uid] = wanted
	return slices.Concat(bestEffort, burstable, guaranteed), true
}

// preempts tells whether a pod may take the place of another.
func (c claim) preempts(other claim) bool {
	if c.critical && !other.critical {
		return true
	}
	return c.priority != nil && other.priority != nil && *c.priority > *other.priority
}

// without returns what is still missing when these pods are gone.
func (l *Ledger) without(missing []shortage, pods ...[]string) []shortage {
	var left []shortage
	for _, s := range missing {
		for _, uid := range slices.Concat(pods...) {
			s.missing -= l.claims[uid].requests[s.name]
		}
		if s.missing > 0 {
			left = append(left, s)
		}
	}
	return left
}

// closest picks pods until nothing is missing: each time the one that comes closest to what is, and the smallest
// of those that come as close.
func (l *Ledger) closest(pods []string, missing []shortage) []string {
	var picked []string
	for len(missing) > 0 && len(pods) > 0 {
		best := slices.MinFunc(pods, func(a, b string) int {
			x, y := l.claims[a], l.claims[b]
			return cmp.Or(
				cmp.Compare(distance(x, missing), distance(y, missing)),
				cmp.Compare(x.requests[v1.ResourceMemory], y.requests[v1.ResourceMemory]),
				cmp.Compare(x.requests[v1.ResourceCPU], y.requests[v1.ResourceCPU]),
			)
		})
		picked = append(picked, best)
		pods = slices.DeleteFunc(slices.Clone(pods), func(uid string) bool { return uid == best })
		missing = l.without(missing, []string{best})
	}
	return picked
}

// distance is how much of what is missing would be left without a pod, each resource by its own measure.
func distance(c claim, missing []shortage) (sum float64) {
	for _, s := range missing {
		if left := s.missing - c.requests[s.name]; left > 0 {
			part := float64(left) / float64(s.missing)
			sum += part * part
		}
	}
	return sum
}

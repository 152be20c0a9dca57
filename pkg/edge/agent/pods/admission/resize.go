package admission

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// Infeasible says why a running pod can never have what it asks for on this device: it is more than the
// device has for all pods together. It is empty if the pod may get it, now or when others have gone.
func (l *Ledger) Infeasible(pod *v1.Pod) string {
	wanted := claimOf(pod)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceCPU} {
		quantity, known := l.allocatable[name]
		if requested, capacity := wanted.requests[name], amount(name, quantity); known && requested > capacity {
			return fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, requested, capacity)
		}
	}
	return ""
}

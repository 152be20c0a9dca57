// Package admission decides whether a device has room for one more pod, in the words of the kubelet.
// It keeps count of what the admitted pods have asked for. What pods really use is not its business,
// nor is what the device's owner forbids; whether a Node's labels and taints suit a pod is decided
// where they are known, in the cluster.
package admission

import (
	"cmp"
	"fmt"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// Rejection is why a pod is not run: both words are for its status.
type Rejection struct {
	Reason, Message string
}

// Ledger holds what the pods of a device have asked for. Its methods may be called concurrently.
type Ledger struct {
	mu          sync.Mutex
	allocatable v1.ResourceList
	claims      map[string]claim // by pod UID
}

// claim is what one pod has a right to.
type claim struct {
	requests map[v1.ResourceName]int64
	ports    []hostPort
	qos      v1.PodQOSClass
	critical bool
	priority *int32
}

// shortage is a resource of which a pod asks for more than there is.
type shortage struct {
	name                               v1.ResourceName
	requested, used, capacity, missing int64
}

type hostPort struct {
	ip       string
	protocol v1.Protocol
	port     int32
}

// NewLedger returns a Ledger that admits everything until it knows what is allocatable.
func NewLedger() *Ledger {
	return &Ledger{claims: map[string]claim{}}
}

// SetAllocatable says what there is for pods. Pods that were admitted stay so if it shrinks.
func (l *Ledger) SetAllocatable(list v1.ResourceList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allocatable = list
}

// Claim admits a pod and counts it until Release, or says why it cannot run. A pod that has a claim
// replaces it.
func (l *Ledger) Claim(pod *v1.Pod) *Rejection {
	if wrongOS(pod) {
		return &Rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	wanted := claimOf(pod)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.allocatable != nil {
		if short := l.shortages(string(pod.UID), wanted, nil); len(short) > 0 {
			return short[0].rejection()
		}
	}
	if l.portTaken(string(pod.UID), wanted) {
		return &Rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
	}
	l.claims[string(pod.UID)] = wanted
	return nil
}

func wrongOS(pod *v1.Pod) bool {
	return pod.Spec.OS != nil && string(pod.Spec.OS.Name) != goruntime.GOOS
}

// Release forgets a pod that holds nothing any more, and tells whether it had a claim.
func (l *Ledger) Release(podUID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, held := l.claims[podUID]
	delete(l.claims, podUID)
	return held
}

// CPU is what there is for pods, and what the pods of a QoS class have asked for, in thousandths.
func (l *Ledger) CPU(class v1.PodQOSClass) (allocatable, requested int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.claims {
		if c.qos == class {
			requested += c.requests[v1.ResourceCPU]
		}
	}
	return amount(v1.ResourceCPU, l.allocatable[v1.ResourceCPU]), requested
}

// shortages lists the resources that there is too little of, in the kubelet's order, when those are gone that
// are leaving.
func (l *Ledger) shortages(uid string, wanted claim, leaving sets.Set[string]) []shortage {
	used := map[v1.ResourceName]int64{}
	for other, c := range l.claims {
		if other == uid || leaving.Has(other) {
			continue
		}
		for name, n := range c.requests {
			used[name] += n
		}
	}
	var short []shortage
	for _, name := range order(wanted.requests) {
		quantity, known := l.allocatable[name]
		if !known && !mustBeKnown(name) {
			continue
		}
		s := shortage{name: name, requested: wanted.requests[name], used: used[name], capacity: amount(name, quantity)}
		if s.missing = s.requested - (s.capacity - s.used); s.requested > 0 && s.missing > 0 {
			short = append(short, s)
		}
	}
	return short
}

func (s shortage) rejection() *Rejection {
	return &Rejection{"OutOf" + string(s.name), fmt.Sprintf(
		"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", s.name, s.requested, s.used, s.capacity)}
}

// mustBeKnown tells whether a resource that the device does not have counts as zero. Others may be the
// cluster's own, and pods until the cloud has said how many there may be.
func mustBeKnown(name v1.ResourceName) bool {
	switch name {
	case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage:
		return true
	}
	return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}

// order lists resources as the kubelet checks them.
func order(requests map[v1.ResourceName]int64) []v1.ResourceName {
	first := []v1.ResourceName{v1.ResourcePods, v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage}
	var others []v1.ResourceName
	for name := range requests {
		if !slices.Contains(first, name) {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	return append(first, others...)
}

func claimOf(pod *v1.Pod) claim {
	c := claim{requests: map[v1.ResourceName]int64{v1.ResourcePods: 1}, qos: qos.GetPodQOS(pod), critical: podutil.IsCritical(pod), priority: pod.Spec.Priority}
	for name, q := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		c.requests[name] = amount(name, q)
	}
	for container, list := range podutil.Containers(pod) {
		if list == "spec.initContainers" && !podutil.IsSidecar(container) {
			continue // it has ended when the others begin
		}
		for _, p := range container.Ports {
			if p.HostPort > 0 {
				c.ports = append(c.ports, hostPort{ip: p.HostIP, protocol: cmp.Or(p.Protocol, v1.ProtocolTCP), port: p.HostPort})
			}
		}
	}
	return c
}

func (l *Ledger) portTaken(uid string, wanted claim) bool {
	for other, c := range l.claims {
		if other == uid {
			continue
		}
		for _, p := range c.ports {
			if slices.ContainsFunc(wanted.ports, p.conflicts) {
				return true
			}
		}
	}
	return false
}

func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || anyAddress(p.ip) || anyAddress(o.ip))
}

func anyAddress(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

// amount is a quantity in the unit that requests are compared in: thousandths for cpu.
func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

package pods

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/util/qos"

	"arhat.dev/aranya/pkg/edge/agent/cgroups"
	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
)

// podLimits are those of the pod as a whole.
func (p *pass) podLimits() *cgroups.Limits {
	return &cgroups.Limits{Linux: criconfig.PodLimits(p.pod, p.node), PIDs: p.w.m.cfg.PodPIDs}
}

// makeCgroup gives the pod a cgroup of its own, before it has a sandbox. A device where that is not
// possible runs the pod without; the user is told what is not enforced then.
func (p *pass) makeCgroup(ctx context.Context) {
	m := p.w.m
	if m.cfg.Cgroups == nil {
		return
	}
	if m.cgroupDriver(ctx) != runtimeapi.CgroupDriver_CGROUPFS.String() {
		p.tellNoCgroup("the container runtime leaves cgroups to systemd")
		return
	}
	limits := p.podLimits()
	if err := m.cfg.Cgroups.Create(p.w.uid, qos.GetPodQOS(p.pod), limits); err != nil {
		klog.FromContext(ctx).Error(err, "The pod has no cgroup of its own", "pod", klog.KObj(p.pod))
		p.tellNoCgroup(err.Error())
		return
	}
	p.w.resize.podLimits = limits.Linux
	m.divideCPU(ctx)
}

// tellNoCgroup tells of what is not enforced without a cgroup of the pod, if it asks for anything.
func (p *pass) tellNoCgroup(why string) {
	var names []string
	if r := p.pod.Spec.Resources; r != nil && len(r.Limits) > 0 {
		names = append(names, "spec.resources.limits for the pod as a whole")
	}
	if len(p.pod.Spec.Overhead) > 0 {
		names = append(names, "spec.overhead")
	}
	if p.w.m.cfg.PodPIDs > 0 {
		names = append(names, "podPidsLimit")
	}
	if len(names) > 0 {
		p.event(v1.EventTypeWarning, "NotEnforced", fmt.Sprintf("This device does not enforce %s: %s", strings.Join(names, ", "), why))
	}
}

// cgroup of the pod: one from before the agent gave any has none.
func (p *pass) cgroup(ctx context.Context) (string, bool) {
	m := p.w.m
	if m.cfg.Cgroups == nil || m.cgroupDriver(ctx) != runtimeapi.CgroupDriver_CGROUPFS.String() {
		return "", false
	}
	return m.cfg.Cgroups.Find(p.w.uid)
}

// cgroupParent of what the pod has in the runtime, in the runtime's own notation; empty for its own choice.
func (p *pass) cgroupParent(ctx context.Context) string {
	cgroup, ok := p.cgroup(ctx)
	if !ok && p.w.m.cgroupDriver(ctx) == runtimeapi.CgroupDriver_SYSTEMD.String() {
		return DefaultSystemdSlice // systemd takes nothing but slices
	}
	return cgroup
}

// loosenCgroup makes room in the pod's cgroup for changed limits of containers: the pod gets the higher
// ones, of before and after, until all containers have theirs.
func (p *pass) loosenCgroup(ctx context.Context) error {
	have, want := p.w.resize.podLimits, p.podLimits()
	cgroup, ok := p.cgroup(ctx)
	if !ok || proto.Equal(have, want.Linux) {
		return nil
	}
	if have == nil { // they are from before the agent's start
		have = &runtimeapi.LinuxContainerResources{CpuQuota: -1, MemoryLimitInBytes: -1}
	}
	want.Linux.CpuQuota = higher(have.CpuQuota, want.Linux.CpuQuota)
	want.Linux.MemoryLimitInBytes = higher(have.MemoryLimitInBytes, want.Linux.MemoryLimitInBytes)
	if err := p.w.m.cfg.Cgroups.Update(cgroup, want); err != nil {
		return err
	}
	p.w.resize.podLimits = want.Linux
	return nil
}

// tightenCgroup gives the pod's cgroup its limits, when those of all containers are in force.
func (p *pass) tightenCgroup(ctx context.Context) error {
	want := p.podLimits()
	if proto.Equal(p.w.resize.podLimits, want.Linux) {
		return nil
	}
	cgroup, ok := p.cgroup(ctx)
	if !ok {
		return nil
	}
	if limit := want.Linux.MemoryLimitInBytes; limit > 0 {
		if usage, err := p.w.m.cfg.Cgroups.Memory(cgroup); err != nil {
			return fmt.Errorf("read memory usage: %w", err)
		} else if usage > limit {
			return fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", limit, usage)
		}
	}
	if err := p.w.m.cfg.Cgroups.Update(cgroup, want); err != nil {
		return err
	}
	p.w.resize.podLimits = want.Linux
	p.w.m.divideCPU(ctx)
	return nil
}

// higher of two limits, where -1 is none.
func higher(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return max(a, b)
}

// removeCgroup removes what there is of the pod's cgroup. If something is in the way it is tried again
// with those of pods that are unknown.
func (p *pass) removeCgroup(ctx context.Context) {
	m := p.w.m
	if m.cfg.Cgroups == nil {
		return
	}
	p.w.resize.podLimits = nil
	if err := m.cfg.Cgroups.Remove(p.w.uid); err != nil {
		klog.FromContext(ctx).V(2).Info("The cgroup of the pod could not be removed yet", "pod", klog.KObj(p.pod), "err", err)
	}
}

// divideCPU gives all pods together, and those that ask for a part of the cpu, their share of it.
func (m *Manager) divideCPU(ctx context.Context) {
	if m.cfg.Cgroups == nil {
		return
	}
	m.sharesMu.Lock()
	defer m.sharesMu.Unlock()
	allocatable, burstable := m.ledger.CPU(v1.PodQOSBurstable)
	if err := m.cfg.Cgroups.SetShares(criconfig.Shares(allocatable), criconfig.Shares(burstable)); err != nil {
		klog.FromContext(ctx).Error(err, "The cpu could not be divided between the pods")
	}
}

// sweepCgroups removes the cgroups of pods that are no more: those that neither the agent nor the runtime has, as
// a pod whose record was lost may run. inRuntime is nil while nobody knows what the runtime has. It waits for
// nothing, as it is called again soon.
func (m *Manager) sweepCgroups(ctx context.Context, inRuntime map[string]snapshot) {
	if m.cfg.Cgroups == nil {
		return
	}
	for _, uid := range m.cfg.Cgroups.Pods() {
		if inRuntime == nil || inRuntime[uid] != nil || m.worker(uid) != nil {
			continue
		}
		if err := m.cfg.Cgroups.TryRemove(uid); err != nil {
			klog.FromContext(ctx).V(2).Info("The cgroup of a pod that is no more could not be removed", "podUID", uid, "err", err)
		}
	}
	m.divideCPU(ctx)
}

package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	"arhat.dev/aranya/pkg/edge/agent/pods/status"
)

// resizing is what a worker knows of the resources of its pod. It belongs to the worker's goroutine.
type resizing struct {
	// granted is what the pod may use; nil before the first pass.
	granted *allocation
	// inForce is what the runtime was told, by id of the container.
	inForce map[string]inForce
	// pending is why a change of the spec has not been granted, nil if it has.
	pending *status.Reason
	// failed is why the last change could not be brought into force.
	failed string
	// podLimits are those that the pod's cgroup was given; nil if that is not known.
	podLimits *runtimeapi.LinuxContainerResources
	// under is set while granted resources are not in force everywhere.
	under bool
}

// inForce are the resources of one container, and those of its pod as a whole.
type inForce struct {
	container v1.ResourceRequirements
	pod       *v1.ResourceRequirements
}

// grant decides about changed resources in the spec, and has the rest of the pass work with those that
// the pod has been granted. One that has ended is granted nothing more: it would hold that for nobody.
func (p *pass) grant() {
	r, last := &p.w.resize, p.w.oldStatus(p.d.pod)
	if r.granted == nil {
		r.granted = lastAllocation(p.d.pod, last)
	}
	if !p.w.ended && !podutil.IsTerminal(last.Phase) {
		p.decideResize()
	}
	p.pod = r.granted.applyTo(p.d.pod)
}

func (p *pass) decideResize() {
	r := &p.w.resize
	wanted := allocationOf(p.d.pod)
	if r.granted.equal(wanted) {
		r.pending = nil
	} else if refusal := p.refuseResize(); refusal != nil {
		if r.pending == nil || *r.pending != *refusal {
			p.event(v1.EventTypeWarning, "Resize"+refusal.Reason, fmt.Sprintf("Pod resize %s: %s", refusal.Reason, refusal.Message))
		}
		r.pending = refusal
		p.later(errorPeriod)
	} else {
		r.granted, r.pending, r.failed = wanted, nil, ""
	}
	p.w.waitsForRoom.Store(r.pending != nil)
}

// refuseResize says why the pod cannot have now what its spec asks for.
func (p *pass) refuseResize() *status.Reason {
	if message := p.w.m.ledger.Infeasible(p.d.pod); message != "" {
		return &status.Reason{Reason: v1.PodReasonInfeasible, Message: message}
	}
	if rejection := p.w.m.ledger.Claim(p.d.pod); rejection != nil {
		return &status.Reason{Reason: v1.PodReasonDeferred, Message: rejection.Message}
	}
	return nil
}

// noteInForce brings the record of what the runtime was told up to the state of now: containers from
// before the agent's start have what their last status says.
func (p *pass) noteInForce() {
	r := &p.w.resize
	if p.d == nil {
		return // nothing but remains
	}
	known := map[string]inForce{}
	last := lastAllocation(p.d.pod, p.w.oldStatus(p.d.pod))
	for _, c := range p.st.Containers {
		have, ok := r.inForce[c.ID]
		if !ok {
			have = inForce{last.containers[c.Name], last.pod}
		}
		known[c.ID] = have
	}
	r.inForce = known
}

// inForceOf is for the status: what a container really has, nil if that is not known.
func (p *pass) inForceOf(containerID string) *v1.ResourceRequirements {
	if have, ok := p.w.resize.inForce[containerID]; ok {
		return &have.container
	}
	return nil
}

// podInForce is for the status: what the containers together were last given, or what theirs sums up to.
func (p *pass) podInForce() *v1.ResourceRequirements {
	for _, c := range p.st.Containers {
		if have, ok := p.w.resize.inForce[c.ID]; ok && have.pod != nil && c.Running() { // others are told of no change
			return have.pod
		}
	}
	if r := p.pod.Spec.Resources; r != nil {
		return r
	}
	return criconfig.SumOfContainers(p.pod)
}

// resizes are the running containers that do not have what they were granted, and whether each has to
// be restarted to get it.
func (p *pass) resizes() (update, restart []*v1.Container) {
	granted := p.w.resize.granted
	check := func(c *v1.Container) {
		instance := p.st.FindActive(c.Name)
		if instance == nil || !instance.Running() {
			return
		}
		changed := changedResources(p.w.resize.inForce[instance.ID], inForce{granted.containers[c.Name], granted.pod})
		switch {
		case len(changed) == 0: // it has it, though those of its pod may be others now
			p.w.resize.inForce[instance.ID] = inForce{granted.containers[c.Name], granted.pod}
		case needsRestart(c, changed):
			restart = append(restart, c)
		default:
			update = append(update, c)
		}
	}
	for i := range p.pod.Spec.InitContainers {
		check(&p.pod.Spec.InitContainers[i])
	}
	for i := range p.pod.Spec.Containers {
		check(&p.pod.Spec.Containers[i])
	}
	return update, restart
}

func needsRestart(c *v1.Container, changed map[v1.ResourceName]bool) bool {
	for _, policy := range c.ResizePolicy {
		if changed[policy.ResourceName] && policy.RestartPolicy == v1.RestartContainer {
			return true
		}
	}
	return false
}

// bringIntoForce tells the runtime what the containers may use. Those that have to be restarted for it
// are added to the actions.
func (p *pass) bringIntoForce(ctx context.Context, a *actions) error {
	if a.killPod || a.restartAll != nil {
		return nil
	}
	r := &p.w.resize
	update, restart := p.resizes()
	under := len(update)+len(restart) > 0
	if under && !r.under {
		p.event(v1.EventTypeNormal, "ResizeStarted", "Pod resize started: "+p.describeResize())
	}
	r.under = r.under || under
	var errs []error
	if under {
		errs = append(errs, p.loosenCgroup(ctx))
	}
	for _, c := range update {
		if err := p.updateContainer(ctx, c, p.st.FindActive(c.Name)); err != nil {
			errs = append(errs, fmt.Errorf("resize container %s: %w", c.Name, err))
		}
	}
	for _, c := range restart {
		a.restartContainer(p.pod, c.Name, kill{instance: p.st.FindActive(c.Name), message: fmt.Sprintf("Container %s resize requires restart", c.Name)})
	}
	err := errors.Join(errs...)
	if err == nil && len(restart) == 0 {
		err = p.tightenCgroup(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		if message := err.Error(); message != r.failed {
			p.event(v1.EventTypeWarning, "ResizeError", "Pod resize error: "+message)
			r.failed = message
		}
		return err
	}
	r.failed = ""
	if r.under && len(restart) == 0 {
		r.under = false
		p.event(v1.EventTypeNormal, "ResizeCompleted", "Pod resize completed: "+p.describeResize())
	}
	return nil
}

// updateContainer changes what a running container may use.
func (p *pass) updateContainer(ctx context.Context, c *v1.Container, instance *state.Container) error {
	granted := p.w.resize.granted
	resources := criconfig.Update(p.pod, c, p.node)
	if err := p.checkMemory(ctx, instance, resources.MemoryLimitInBytes); err != nil {
		return err
	}
	if err := p.w.m.cfg.Runtime.UpdateContainerResources(ctx, instance.ID, &runtimeapi.ContainerResources{Linux: resources}); err != nil {
		return err
	}
	p.w.resize.inForce[instance.ID] = inForce{granted.containers[c.Name], granted.pod}
	klog.FromContext(ctx).V(2).Info("Resized container", "pod", klog.KObj(p.pod), "container", c.Name)
	return nil
}

// checkMemory refuses a memory limit below what the container uses: depending on the kernel it would
// be killed for it.
func (p *pass) checkMemory(ctx context.Context, instance *state.Container, limit int64) error {
	if limit <= 0 {
		return nil
	}
	stats, err := p.w.m.cfg.Runtime.ContainerStats(ctx, instance.ID)
	if err != nil {
		return fmt.Errorf("read memory usage: %w", err)
	}
	usage := stats.GetMemory().GetUsageBytes().GetValue()
	if usage == 0 {
		usage = stats.GetMemory().GetWorkingSetBytes().GetValue()
	}
	if usage > uint64(limit) {
		return fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", instance.Name, limit, usage)
	}
	return nil
}

// describeResize is for events: what the containers are granted, as JSON.
func (p *pass) describeResize() string {
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	description := struct {
		Containers []container `json:"containers"`
		Generation int64       `json:"generation"`
	}{Generation: p.d.pod.Generation}
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		description.Containers = append(description.Containers, container{c.Name, p.w.resize.granted.containers[c.Name]})
	}
	data, err := json.Marshal(description)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// resizeStatus is what the pod's conditions say about a resize.
func (p *pass) resizeStatus() status.Resize {
	r := &p.w.resize
	if r.granted == nil || p.w.ended {
		return status.Resize{}
	}
	s := status.Resize{Pending: r.pending}
	if update, restart := p.resizes(); r.under || len(update)+len(restart) > 0 {
		s.InProgress = &status.Reason{}
		if r.failed != "" {
			s.InProgress = &status.Reason{Reason: v1.PodReasonError, Message: r.failed}
		}
	}
	return s
}

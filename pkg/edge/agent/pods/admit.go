package pods

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/status"
)

// known tells whether the pod has had a status on this device.
func (w *worker) known() bool { return w.last != nil }

// admit decides about each version of the pod by what the device can do and its owner permits, and about
// the first one by what there is room for. It returns the status of a pod that is refused; one that is
// neither refused nor admitted waits.
func (w *worker) admit(p *pass) *v1.PodStatus {
	if w.rejected != nil || w.admitted == p.pod {
		return w.rejected
	}
	reason, message, ok := "", "", true
	if !podutil.IsTerminal(w.oldStatus(p.pod).Phase) {
		reason, message, ok = w.permitted(p, nil)
		if ok && w.admitted == nil && !w.hasRoom(p) {
			if p.d.message.Static || w.preempting {
				return nil
			}
			reason, message, ok = w.noRoom.Reason, w.noRoom.Message, false
		}
	}
	if ok {
		w.forbid(p)
		w.admitted = p.pod
		return nil
	}
	w.m.release(w.uid)
	w.rejected = status.Rejected(p.pod, reason, message, p.node.HostIPs, p.now())
	w.m.events.event(w.uid, "", v1.EventTypeWarning, reason, message)
	return w.rejected
}

// hasRoom tells whether the pod was granted what it asks for. A critical one makes others go for it, and asks
// again when they are gone. So does a static one that waits: nobody makes another in its place elsewhere, and
// what it replaces may still be stopping.
func (w *worker) hasRoom(p *pass) bool {
	if w.noRoom == nil || !p.d.message.Static && !podutil.IsCritical(p.pod) {
		return w.noRoom == nil
	}
	if w.evicted() != nil { // for one that is more critical
		return false
	}
	waited := w.waitsForRoom.Swap(true) // before it asks, so that it hears of all that is given back afterwards
	pod := lastAllocation(p.pod, w.oldStatus(p.pod)).applyTo(p.pod)
	w.noRoom = w.m.ledger.Claim(pod)
	w.preempting = w.noRoom != nil && w.m.preempt(pod)
	if w.noRoom == nil {
		clear(w.reasons)
		w.waitsForRoom.Store(false)
		return true
	}
	if !waited && !w.preempting && p.d.message.Static {
		p.event(v1.EventTypeWarning, w.noRoom.Reason, w.noRoom.Message)
	}
	return false
}

// awaitRoom reports a pod that waits for room, and stops what runs of it from when there was more, unless others
// make room.
func (w *worker) awaitRoom(ctx context.Context, p *pass) (time.Duration, error) {
	clear(w.reasons)
	if w.preempting {
		p.syncProbes() // of what runs of it, which goes on
	} else {
		w.m.probes.remove(w.uid)
		if err := p.stopForGood(ctx, false); err != nil {
			return errorPeriod, err
		}
		if p.changed {
			return 0, nil
		}
		for c := range podutil.Containers(p.pod) {
			w.reasons[c.Name] = status.Reason{Reason: w.noRoom.Reason, Message: w.noRoom.Message}
		}
	}
	s := p.status()
	if s.Phase == v1.PodPending {
		s.StartTime = nil // its deadline does not run yet
	}
	w.report(ctx, p.pod, s)
	return errorPeriod, p.prune(ctx)
}

// permitted asks about the pod with none but these ephemeral containers.
func (w *worker) permitted(p *pass, ephemeral []v1.EphemeralContainer) (reason, message string, ok bool) {
	pod := *p.pod
	pod.Spec.EphemeralContainers = ephemeral
	if reason, message = unsupported(&pod, p.node.Features); reason != "" {
		return reason, message, false
	}
	// The policy is about what the cloud may have the device do.
	if w.m.cfg.Admit == nil || p.d.message.Static {
		return "", "", true
	}
	return w.m.cfg.Admit(&pod, len(ephemeral) > 0 || w.admitted != nil || w.known())
}

// forbid notes which ephemeral containers of the pod are not permitted. They come when it runs already: it
// does not have to suffer for them.
func (w *worker) forbid(p *pass) {
	before := w.forbidden
	w.forbidden = map[string]status.Reason{}
	for i := range p.pod.Spec.EphemeralContainers {
		reason, message, ok := w.permitted(p, p.pod.Spec.EphemeralContainers[i:i+1])
		if ok {
			continue
		}
		name := p.pod.Spec.EphemeralContainers[i].Name
		w.forbidden[name] = status.Reason{Reason: reason, Message: message}
		if before[name] != w.forbidden[name] {
			p.containerEvent(name, v1.EventTypeWarning, reason, message)
		}
	}
}

// leaveOutForbidden keeps ephemeral containers that are not permitted from being started. One may run all
// the same: the policy was another one before.
func (p *pass) leaveOutForbidden(a *actions) {
	a.ephemeralToStart = slices.DeleteFunc(a.ephemeralToStart, func(i int) bool {
		name := p.pod.Spec.EphemeralContainers[i].Name
		reason, ok := p.w.forbidden[name]
		if ok {
			p.w.reasons[name] = reason
		}
		return ok
	})
	for name, reason := range p.w.forbidden {
		if instance := p.st.Find(name); instance != nil && instance.Running() {
			a.toKill = append(a.toKill, kill{instance: instance, message: fmt.Sprintf("Ephemeral container %s is not permitted: %s", name, reason.Message)})
		}
	}
}

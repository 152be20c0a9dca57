package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	"arhat.dev/aranya/pkg/edge/agent/pods/status"
	"arhat.dev/aranya/pkg/edge/agent/volumes"
)

// pass is one comparison of a pod with the runtime.
type pass struct {
	w    *worker
	d    *desired
	pod  *v1.Pod
	node *criconfig.Node
	st   *state.Pod
	// runtimeName is part of the containers' ids.
	runtimeName string
	// changed is set when something was done: the state has to be read again.
	changed bool
	// next is when something else may have to be done.
	next time.Duration
}

// now is read anew each time: a pass may wait long for a container to stop.
func (p *pass) now() time.Time { return p.w.m.cfg.Clock.Now() }

// later makes the next pass happen after d at the latest.
func (p *pass) later(d time.Duration) { p.next = min(p.next, max(d, 0)) }

// sync brings the pod closer to what is wanted.
func (w *worker) sync(ctx context.Context, d *desired) (time.Duration, error) {
	p := &pass{w: w, d: d, pod: d.pod, node: w.m.nodeConfig(), next: resyncPeriod}
	if err := p.learnFeatures(ctx); err != nil {
		return runtimeDownPeriod, err
	}
	refused := w.admit(p)
	if err := p.read(ctx); err != nil {
		return runtimeDownPeriod, err
	}
	if refused != nil { // it may run all the same: the policy was another one before
		w.end()
		if err := p.stopAll(ctx, nil); err != nil {
			return errorPeriod, err
		}
		w.report(ctx, d.pod, refused)
		return p.next, p.prune(ctx)
	}
	if e := w.evicted(); e != nil {
		return w.evict(ctx, p, e)
	}
	if w.admitted == nil {
		return w.awaitRoom(ctx, p)
	}
	p.grant()
	if !w.ended { // first of all, so that what was ready before the agent's restart stays ready
		p.syncProbes()
	}
	s := p.status()
	if w.overdue || !podutil.IsTerminal(s.Phase) {
		p.checkDeadline(s)
	}
	if podutil.IsTerminal(s.Phase) {
		return w.finish(ctx, p, s)
	}
	w.report(ctx, d.pod, s)
	err := p.apply(ctx)
	if err != nil {
		p.later(errorPeriod)
	} else if p.changed {
		p.later(0)
	}
	if p.changed {
		w.changedAt = p.now()
	}
	// What is started, and gone again before the runtime is looked at as a whole, goes unnoticed there.
	if settled := w.changedAt.Add(2 * w.m.cfg.RelistPeriod); settled.After(p.now()) {
		p.later(settled.Sub(p.now()))
	}
	if p.changed {
		w.unpruned = true
		return p.next, err // what was done is seen, and reported, in the next pass
	}
	w.report(ctx, d.pod, p.status())
	return p.next, errors.Join(err, p.prune(ctx))
}

// syncProbes has the probes run of what runs.
func (p *pass) syncProbes() {
	p.w.m.probes.sync(p.pod, p.st, p.podIPs(), p.w.oldStatus(p.pod))
}

// read looks at what the runtime has.
func (p *pass) read(ctx context.Context) error {
	// cri-client logs each error by itself.
	st, err := p.w.reader.Read(logr.NewContext(ctx, logr.Discard()), p.w.uid)
	if err != nil {
		return fmt.Errorf("%w: %w", errRuntimeDown, err)
	}
	if p.runtimeName = p.w.m.runtimeName(ctx); p.runtimeName == "" {
		return fmt.Errorf("%w: its name is not known", errRuntimeDown)
	}
	p.st = st
	p.noteInForce()
	p.w.setView(st)
	return nil
}

// podIPs are the pod's addresses, primary first.
func (p *pass) podIPs() []string {
	sandbox := p.st.ReadySandbox()
	if p.pod.Spec.HostNetwork || (sandbox != nil && state.HostNetwork(sandbox)) {
		return p.node.HostIPs
	}
	return p.st.IPs(ipv6First(p.node.HostIPs))
}

func (p *pass) status() *v1.PodStatus { return p.generate(nil) }

// finalStatus is the status of a pod of which nothing runs any more, nor will; end is nil if its containers tell how it
// ends, as they have been stopped.
func (p *pass) finalStatus(end *status.End) *v1.PodStatus {
	return status.Final(p.pod, p.generate(end))
}

func (p *pass) generate(end *status.End) *v1.PodStatus {
	w := p.w
	return status.Generate(status.Input{
		Pod:       p.pod,
		State:     p.st,
		Old:       w.oldStatus(p.pod),
		Reasons:   w.reasons,
		Probes:    w.m.probes,
		Ended:     w.ended,
		End:       end,
		HostIPs:   p.node.HostIPs,
		PodIPs:    p.podIPs(),
		Runtime:   p.runtimeName,
		Resources: p.inForceOf, PodResources: p.podInForce(), Resize: p.resizeStatus(),
		RestartingAll:     restartAllTrigger(p.pod, p.st),
		RecursiveReadOnly: p.node.Features.RecursiveReadOnly,
		Now:               p.now(),
	})
}

// checkDeadline ends a pod that has been active for longer than it may.
func (p *pass) checkDeadline(s *v1.PodStatus) {
	limit := p.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || s.StartTime == nil {
		return
	}
	left := s.StartTime.Add(time.Duration(*limit) * time.Second).Sub(p.now())
	if left > 0 {
		p.later(left)
		return
	}
	s.Phase, s.Reason, s.Message = overdue.Phase, overdue.Reason, overdue.Message
	if !p.w.overdue {
		p.w.overdue = true // however its containers end, now that they are stopped
		p.event(v1.EventTypeNormal, overdue.Reason, overdue.Message)
	}
}

// end has the pod start no container any more, and wait for nothing.
func (w *worker) end() {
	w.ended = true
	w.waitsForRoom.Store(false)
	w.m.puller.Forget(w.uid)
}

// overdue is how a pod ends that has been active for longer than it may.
var overdue = status.End{Phase: v1.PodFailed, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}

// finish stops what is left of a pod that has ended. The phase is reported once nothing runs any more:
// whoever sees it may take the pod's place.
func (w *worker) finish(ctx context.Context, p *pass, s *v1.PodStatus) (time.Duration, error) {
	w.end()
	if err := p.stopAll(ctx, nil); err != nil {
		return runtimeDownPeriod, err
	}
	w.m.release(w.uid)
	w.report(ctx, p.pod, p.finalStatus(&status.End{Phase: s.Phase, Reason: s.Reason, Message: s.Message}))
	return resyncPeriod, p.prune(ctx)
}

// mountVolumes makes the pod's volumes or brings them up to date. Unless a container is to be started it is
// about their content alone: those that run keep the rest as it was, whatever has become of it on the host.
func (p *pass) mountVolumes(starts bool) (map[string]volumes.Mounted, error) {
	pod := *p.pod
	if !starts {
		pod.Spec.Volumes = slices.DeleteFunc(slices.Clone(pod.Spec.Volumes), func(v v1.Volume) bool {
			return v.HostPath != nil || v.EmptyDir != nil
		})
	}
	podIPs := p.podIPs()
	memory := p.node.Allocatable[v1.ResourceMemory]
	allows := p.w.m.cfg.AllowsHostPath
	if p.d.message.Static {
		allows = nil
	}
	mounted, err := p.w.m.volumes.Setup(&pod, volumes.Source{
		Data:           p.d.volumes,
		MemoryBytes:    memory.Value(),
		AllowsHostPath: allows,
		Downward: func(item *v1.DownwardAPIVolumeFile) ([]byte, error) {
			return criconfig.DownwardFile(p.pod, p.node, podIPs, item)
		},
	})
	var failed *volumes.SetupError
	for _, e := range joined(err) {
		if errors.As(e, &failed) {
			p.w.m.events.event(p.w.uid, "", v1.EventTypeWarning, "FailedMount", failed.Error())
		}
	}
	return mounted, err
}

// joined takes apart what errors.Join has put together.
func joined(err error) []error {
	var multi interface{ Unwrap() []error }
	if errors.As(err, &multi) {
		return multi.Unwrap()
	}
	return nil
}

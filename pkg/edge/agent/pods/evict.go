package pods

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/status"
)

const (
	// sweepPatience is how long RemoveDead waits for pods that are busy with something else.
	sweepPatience = 10 * time.Second
	sweepPoll     = 100 * time.Millisecond
)

// ousting is that a pod has to stop for good, though it stays on record.
type ousting struct {
	grace int64 // seconds
	end   status.End
}

// ActivePods returns the pods that have anything running and are not being removed, with their last status. They are
// copies.
func (m *Manager) ActivePods() []*v1.Pod {
	return m.podsThat(func(w *worker) bool {
		return w.deletion == nil && w.view != nil && (w.view.AnyRunning() || w.view.ReadySandbox() != nil)
	})
}

// Evict stops a pod for good; its status says why. It does not wait.
func (m *Manager) Evict(podUID string, graceSeconds int64, message string, disruption bool) {
	e := &ousting{grace: graceSeconds, end: status.End{Phase: v1.PodFailed, Reason: podutil.ReasonEvicted, Message: message}}
	if disruption {
		e.end.Disruption = message
	}
	if w := m.worker(podUID); w != nil {
		w.oust(func(*v1.Pod) *ousting { return e })
	}
}

// preempt asks for room for a critical pod that others have, and stops those for good. It does not wait, and
// tells whether there will be room.
func (m *Manager) preempt(pod *v1.Pod) bool {
	leaving := sets.New[string]()
	for _, w := range m.all() {
		w.mu.Lock()
		if w.deletion != nil || w.eviction != nil {
			leaving.Insert(w.uid)
		}
		w.mu.Unlock()
	}
	victims, ok := m.ledger.Preempt(pod, leaving)
	for _, uid := range victims {
		if w := m.worker(uid); w != nil {
			w.oust(preempted)
		}
	}
	return ok
}

// preempted is how a pod makes room for a critical one: in its own time.
func preempted(pod *v1.Pod) *ousting {
	return &ousting{grace: gracePeriod(pod, nil, "", nil), end: status.End{
		Phase: v1.PodFailed, Reason: podutil.ReasonPreempting, Message: "Preempted in order to admit critical pod",
		Disruption: "Pod was preempted by Kubelet to accommodate a critical pod.",
	}}
}

// oust stops the pod for good, unless it stops for another reason.
func (w *worker) oust(how func(*v1.Pod) *ousting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.desired == nil || w.deletion != nil || w.eviction != nil {
		return
	}
	w.eviction = how(w.desired.pod)
	w.m.events.event(w.uid, "", v1.EventTypeWarning, w.eviction.end.Reason, w.eviction.end.Message)
	if w.interrupt != nil {
		w.interrupt()
	}
	w.wakeUp()
}

// RemoveDead removes containers that are kept only for their logs and for how they ended, which their
// pods' statuses tell: all of pods that have ended, with their volumes, and those of others that are not
// their container's newest instance.
// It waits a while for that.
func (m *Manager) RemoveDead(ctx context.Context) error {
	workers := m.all()
	for _, w := range workers {
		w.mu.Lock()
		w.sweep = true
		w.mu.Unlock()
		w.wakeUp()
	}
	sweeping := func(w *worker) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.sweep
	}
	ticker := m.cfg.Clock.NewTicker(sweepPoll)
	defer ticker.Stop()
	for deadline := m.cfg.Clock.Now().Add(sweepPatience); slices.ContainsFunc(workers, sweeping) && m.cfg.Clock.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C():
		}
	}
	return nil
}

// evict stops what is left of an evicted pod, removes its containers with their logs and its
// volumes, as the device is short of room, and reports its end.
func (w *worker) evict(ctx context.Context, p *pass, e *ousting) (time.Duration, error) {
	w.end()
	if err := p.stopAll(ctx, &e.grace); err != nil {
		return runtimeDownPeriod, err
	}
	w.m.release(w.uid)
	if !podutil.IsTerminal(w.oldStatus(p.pod).Phase) {
		w.report(ctx, p.pod, p.finalStatus(&e.end))
	}
	if err := p.removeEnded(ctx); err != nil {
		return errorPeriod, err
	}
	return resyncPeriod, nil
}

// removeEnded removes what is left of a pod that has ended, once that is on record: else it would run again
// after a power cut. A full disk may have no room for the record before the pod's own part of it is free:
// its volumes, which do not tell of its end, go first then.
func (p *pass) removeEnded(ctx context.Context) error {
	w := p.w
	record := func() error {
		w.report(ctx, p.pod, w.oldStatus(p.pod))
		return w.unsavedLast()
	}
	err := record()
	if isFull(err) {
		if err := w.m.volumes.Teardown(w.uid); err != nil {
			return err
		}
		err = record()
	}
	if err != nil && !isFull(err) {
		return nil // it is tried again soon
	}
	if err := p.removeAll(ctx); err != nil {
		return err
	}
	return errors.Join(record(), w.m.volumes.Teardown(w.uid))
}

// isFull tells whether an error says that there is no room on the disk.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func (w *worker) evicted() *ousting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eviction
}

// forcedEnd is how the pod ends if it is being stopped for another reason than its deletion, else nil.
func (w *worker) forcedEnd() *status.End {
	if e := w.evicted(); e != nil {
		return &e.end
	}
	if w.overdue {
		return &overdue
	}
	return nil
}

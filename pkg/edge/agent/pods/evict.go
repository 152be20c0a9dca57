package pods

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

const (
	// sweepPatience is how long RemoveDead waits for pods that are busy with something else.
	sweepPatience = 10 * time.Second
	sweepPoll     = 100 * time.Millisecond
)

// ousting is that a pod has to stop for good, though it stays on record.
type ousting struct {
	grace   int64 // seconds
	message string
	// disruption says that it is not the pod's own fault.
	disruption bool
}

// ActivePods returns the pods that have not ended, with their last status. They are copies.
func (m *Manager) ActivePods() []*v1.Pod {
	var active []*v1.Pod
	for _, w := range m.all() {
		w.mu.Lock()
		if w.desired != nil && w.deletion == nil && w.view != nil && (w.view.AnyRunning() || w.view.ReadySandbox() != nil) {
			pod := w.desired.pod.DeepCopy()
			if w.last != nil {
				w.last.DeepCopyInto(&pod.Status)
			}
			active = append(active, pod)
		}
		w.mu.Unlock()
	}
	return active
}

// Evict stops a pod for good; its status says why. It does not wait.
func (m *Manager) Evict(podUID string, graceSeconds int64, message string, disruption bool) {
	w := m.worker(podUID)
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.desired == nil || w.deletion != nil || w.eviction != nil {
		return
	}
	m.events.event(podUID, "", v1.EventTypeWarning, podutil.ReasonEvicted, message)
	w.eviction = &ousting{grace: graceSeconds, message: message, disruption: disruption}
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
	w.ended = true
	w.m.puller.Forget(w.uid)
	if err := p.stopAll(ctx, &e.grace); err != nil {
		return runtimeDownPeriod, err
	}
	w.m.release(w.uid)
	if !podutil.IsTerminal(w.oldStatus(p.pod).Phase) {
		w.report(ctx, p.pod, p.evictedStatus(e))
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

func (p *pass) evictedStatus(e *ousting) *v1.PodStatus {
	s := p.status()
	s.Phase, s.Reason, s.Message = v1.PodFailed, podutil.ReasonEvicted, e.message
	if e.disruption {
		s.Conditions = append(s.Conditions, v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: e.message,
			ObservedGeneration: p.pod.Generation, LastTransitionTime: metav1.NewTime(p.now).Rfc3339Copy(),
		})
	}
	return s
}

func (w *worker) evicted() *ousting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eviction
}

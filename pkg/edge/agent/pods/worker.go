package pods

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/pods/admission"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	"arhat.dev/aranya/pkg/edge/agent/pods/status"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/restartpolicy"
)

const (
	// resyncPeriod is how often a pod is compared with the runtime though nothing has happened.
	resyncPeriod = time.Minute
	// errorPeriod is how soon after an error it is tried again.
	errorPeriod = 10 * time.Second
	// runtimeDownPeriod is how soon it is tried again to read the state of the runtime. When that answers
	// again all workers are woken, so it need not be short.
	runtimeDownPeriod = 5 * time.Second
)

// errRuntimeDown says that the state of the runtime could not be read.
var errRuntimeDown = errors.New("the container runtime does not answer")

// worker looks after one pod from when it is first heard of until nothing of it is left. Inputs only
// change what is wanted and wake it; all work is done by its one goroutine.
type worker struct {
	m   *Manager
	uid string

	wake chan struct{}
	// waitsForRoom is set while a resize, or a static or critical pod, waits for what other pods have.
	waitsForRoom atomic.Bool

	mu       sync.Mutex
	desired  *desired           // nil if only its remains are known
	deletion *edgeapi.DeletePod // set once it has to go
	eviction *ousting           // set once it has to stop for good
	sweep    bool               // whether the disk is short, so that nothing is kept in vain
	// interrupt ends the sync that is under way: what it does is not wanted any more.
	interrupt context.CancelFunc
	last      *v1.PodStatus // as last given to the sink
	unsaved   error         // why that could not be kept on the disk
	view      *state.Pod    // as last read, for look-ups

	// Of the goroutine alone:
	reader        *state.Reader
	saved         *desired
	savedDeletion *edgeapi.DeletePod
	sweeping      bool                     // sweep as it was when the pass began
	unpruned      bool                     // the pass has left it to the next one to remove what is of no use
	admitted      *v1.Pod                  // the version of the pod that was admitted last
	forbidden     map[string]status.Reason // by ephemeral container of that version
	changedAt     time.Time                // when a pass has last done something
	rejected      *v1.PodStatus
	noRoom        *admission.Rejection // first set before the goroutine starts
	preempting    bool                 // others are on their way out to make room
	reasons       map[string]status.Reason
	retryAt       map[string]time.Time // by container; "" is the sandbox
	futureEnds    map[string]futureEnd // by container
	ended         bool                 // it starts no container any more
	overdue       bool                 // it was active for longer than it may be
	resize        resizing
}

func (m *Manager) newWorker(uid string) *worker {
	return &worker{
		m: m, uid: uid,
		wake:    make(chan struct{}, 1),
		reader:  &state.Reader{Runtime: m.cfg.Runtime, Owner: m.cfg.Owner},
		reasons: map[string]status.Reason{},
		retryAt: map[string]time.Time{}, futureEnds: map[string]futureEnd{},
	}
}

// wakeUp makes the worker look again.
func (w *worker) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default: // it is about to
	}
}

// isStatic tells whether the pod is one of the device's own folder.
func (w *worker) isStatic() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.desired != nil && w.desired.message.Static
}

// setDesired replaces what is wanted. A pod that has to go does not come back.
func (w *worker) setDesired(d *desired) {
	w.mu.Lock()
	w.setDesiredLocked(d)
	w.mu.Unlock()
	w.wakeUp()
}

func (w *worker) setDesiredLocked(d *desired) {
	w.desired = d
	if w.deletion == nil && d.pod.DeletionTimestamp != nil {
		w.deletion = deletionOf(d.pod, nil)
		if w.interrupt != nil {
			w.interrupt()
		}
	}
}

// setKeeping is setDesired for a pod of which volumes or the runtime handler are those that it has.
func (w *worker) setKeeping(d *desired) error {
	w.mu.Lock()
	d, err := d.keeping(w.desired)
	if err == nil {
		w.setDesiredLocked(d)
	}
	w.mu.Unlock()
	w.wakeUp()
	return err
}

func (w *worker) updateVolumes(u *edgeapi.UpdateVolumes) {
	w.mu.Lock()
	if w.desired != nil {
		w.desired = w.desired.withVolumes(u)
	}
	w.mu.Unlock()
	w.wakeUp()
}

// deletionOf is the removal of a pod with its own grace period, or the one given.
func deletionOf(pod *v1.Pod, grace *int64) *edgeapi.DeletePod {
	d := &edgeapi.DeletePod{Uid: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name}
	switch {
	case grace != nil:
		d.GracePeriodSeconds = *grace
	case pod.DeletionGracePeriodSeconds != nil:
		d.GracePeriodSeconds = *pod.DeletionGracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		d.GracePeriodSeconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	return d
}

// remove makes the pod go, with its own grace period if d is nil. A shorter grace period takes the
// place of a longer one.
func (w *worker) remove(d *edgeapi.DeletePod) {
	w.mu.Lock()
	if d == nil {
		switch {
		case w.deletion != nil:
			d = w.deletion
		case w.desired != nil:
			d = deletionOf(w.desired.pod, nil)
		default:
			d = &edgeapi.DeletePod{Uid: w.uid}
		}
	}
	if w.deletion == nil || d.GracePeriodSeconds < w.deletion.GracePeriodSeconds {
		w.deletion = d
		if w.interrupt != nil {
			w.interrupt()
		}
	}
	w.mu.Unlock()
	w.wakeUp()
}

func (w *worker) digest() *edgeapi.PodDigest {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.desired == nil {
		return &edgeapi.PodDigest{Uid: w.uid}
	}
	return &edgeapi.PodDigest{Uid: w.uid, Digest: w.desired.message.Digest, VolumesDigest: w.desired.message.VolumesDigest}
}

// run works until the pod is gone or the context ends.
func (w *worker) run(ctx context.Context) {
	logger := klog.FromContext(ctx).WithValues("podUID", w.uid)
	ctx = klog.NewContext(ctx, logger)
	defer w.m.probes.remove(w.uid)
	timer := w.m.cfg.Clock.NewTimer(resyncPeriod)
	defer timer.Stop()
	for {
		next, done := w.syncOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if done {
			w.m.finished(w)
			return
		}
		if !timer.Stop() {
			select {
			case <-timer.C():
			default:
			}
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C():
		}
	}
}

// syncOnce does what is to be done now. It returns when to look again at the latest, and whether
// nothing of the pod is left.
func (w *worker) syncOnce(parent context.Context) (next time.Duration, done bool) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	w.mu.Lock()
	d, deletion := w.desired, w.deletion
	w.interrupt, w.sweeping = cancel, w.sweep
	w.mu.Unlock()
	w.unpruned = false
	var err error
	defer func() {
		w.mu.Lock()
		w.interrupt = nil
		if w.sweeping && (done || next > 0 && !w.unpruned) && !errors.Is(err, errRuntimeDown) {
			w.sweep = false // whatever could be removed is
		}
		w.mu.Unlock()
	}()
	w.keep(ctx, d, deletion)
	if deletion != nil {
		done, err = w.terminate(ctx, d, deletion)
		next = errorPeriod
	} else {
		next, err = w.sync(ctx, d)
		if w.unsavedLast() != nil {
			next = min(next, errorPeriod)
		}
	}
	switch {
	case parent.Err() != nil:
	case ctx.Err() != nil:
		next = 0 // interrupted: there is something new to do
	case errors.Is(err, errRuntimeDown): // the relister tells of it, once for all pods
		klog.FromContext(ctx).V(3).Info("Runtime cannot be asked about the pod", "err", err)
	case err != nil:
		klog.FromContext(ctx).Error(err, "Pod is not as it should be, trying again", "in", next)
	}
	return next, done
}

// keep writes what is new in the desired state to the disk.
func (w *worker) keep(ctx context.Context, d *desired, deletion *edgeapi.DeletePod) {
	if d != nil && d != w.saved {
		if err := w.m.store.SavePod(d.message); err != nil {
			klog.FromContext(ctx).Error(err, "Pod could not be kept for the next start of the agent")
		} else {
			w.saved = d
		}
	}
	if deletion != nil && deletion != w.savedDeletion {
		if err := w.m.store.SaveDeletion(deletion); err != nil {
			klog.FromContext(ctx).Error(err, "Removal of the pod could not be kept for the next start of the agent")
		} else {
			w.savedDeletion = deletion
		}
	}
}

// restoreStatus takes up the status from before the agent's start.
func (w *worker) restoreStatus(s *v1.PodStatus) {
	w.last = s
	switch {
	case s == nil:
	case status.IsRejected(s):
		w.rejected = s
	case podutil.IsTerminal(s.Phase) && (s.Reason == podutil.ReasonEvicted || s.Reason == podutil.ReasonPreempting):
		w.eviction = &ousting{grace: minGrace} // to finish what was begun
	}
}

// claim asks for what the pod needs of the device's resources, unless it has ended.
func (w *worker) claim() {
	old := w.oldStatus(w.desired.pod)
	if w.deletion != nil || podutil.IsTerminal(old.Phase) {
		return
	}
	w.noRoom = w.m.ledger.Claim(lastAllocation(w.desired.pod, old).applyTo(w.desired.pod))
}

// oldStatus is the status before, by the agent's own record or else by the cluster's.
func (w *worker) oldStatus(pod *v1.Pod) *v1.PodStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last != nil {
		return w.last
	}
	return &pod.Status
}

// report gives a status to the sink, if it is news, and keeps it on the disk. It is for the worker's goroutine alone,
// which changes the last status: the lock is not held over the disk, as what comes from the cloud needs it.
func (w *worker) report(ctx context.Context, pod *v1.Pod, s *v1.PodStatus) {
	news := w.last == nil || !equality.Semantic.DeepEqual(w.last, s)
	if !news && w.unsaved == nil {
		return
	}
	unsaved := w.m.saveStatus(w.uid, s, outlastsPowerCut(pod, s))
	if unsaved != nil {
		klog.FromContext(ctx).Error(unsaved, "Status of the pod could not be kept for the next start of the agent, trying again")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.unsaved = s, unsaved
	if news {
		w.send(pod, s)
	}
}

// outlastsPowerCut tells whether a status has to be on the disk before anything else happens. The runtime may lose
// all that it has of the pod with the power, or be told to remove it: then the status alone tells what may not run
// again. What runs again in any case is not worth the wear of the disk.
func outlastsPowerCut(pod *v1.Pod, s *v1.PodStatus) bool {
	return podutil.IsTerminal(s.Phase) || restartpolicy.MayEnd(pod)
}

// unsavedLast is why the last status is not on the disk, nil if it is.
func (w *worker) unsavedLast() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unsaved
}

// send is called with the lock held, so that statuses arrive in order.
func (w *worker) send(pod *v1.Pod, s *v1.PodStatus) {
	data, err := s.Marshal()
	if err != nil {
		klog.Background().Error(err, "Status of a pod cannot be encoded", "pod", klog.KObj(pod))
		return
	}
	w.m.cfg.Sink.PodStatus(&edgeapi.PodStatus{Uid: w.uid, Namespace: pod.Namespace, Name: pod.Name, Status: data})
}

func (w *worker) resend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last != nil && w.desired != nil {
		w.send(w.desired.pod, w.last)
	}
}

// setView keeps the state for look-ups.
func (w *worker) setView(st *state.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = st
}

// addToView enters what the worker itself has just done to a container: its log may be there before the
// state is read again, and must not be taken for that of one which the runtime has lost.
func (w *worker) addToView(c state.Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := state.Pod{Containers: []*state.Container{&c}} // another one: those who look have the old one
	if w.view != nil {
		next.Sandboxes = w.view.Sandboxes
		for _, other := range w.view.Containers {
			if other.Name != c.Name || other.RestartCount != c.RestartCount {
				next.Containers = append(next.Containers, other)
			}
		}
	}
	w.view = &next
}

package pods

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubelet/pkg/types"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// relister looks at the runtime once a period, with two calls for all pods, and wakes the workers of
// pods in which something has changed. It finds what is left of pods that nobody wants.
type relister struct {
	m      *Manager
	wakeCh chan struct{}

	mu      sync.Mutex
	desired map[string]bool // what the cloud wants; nil until it has said so
	gone    map[string]bool // pods of which nothing was left, since the runtime was last asked
	swept   bool

	// Of the goroutine alone:
	before map[string]snapshot // nil until the runtime has answered
	down   bool
}

// snapshot is the state of what a pod has in the runtime, by id.
type snapshot map[string]int32

func newRelister(m *Manager) *relister {
	return &relister{m: m, wakeCh: make(chan struct{}, 1), gone: map[string]bool{}}
}

func (r *relister) setDesired(listed map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.desired = listed
}

func (r *relister) addDesired(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.desired != nil {
		r.desired[uid] = true
	}
}

// removeDesired forgets a pod that is gone: what is found of it later is a remainder, unless that was found before.
func (r *relister) removeDesired(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.desired, uid)
	r.gone[uid] = true
}

func (r *relister) wake() {
	select {
	case r.wakeCh <- struct{}{}:
	default:
	}
}

func (r *relister) run(ctx context.Context) {
	ticker := r.m.cfg.Clock.NewTicker(r.m.cfg.RelistPeriod)
	defer ticker.Stop()
	var gc time.Time
	for {
		r.once(ctx)
		if now := r.m.cfg.Clock.Now(); now.Sub(gc) > time.Minute {
			r.m.backOff.GC()
			r.m.sweepCgroups(ctx, r.before)
			gc = now
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		case <-r.wakeCh:
		}
	}
}

// once compares the runtime with what it was the last time.
func (r *relister) once(ctx context.Context) {
	r.mu.Lock()
	clear(r.gone) // the runtime does not tell of them any more
	r.mu.Unlock()
	now, names, err := r.list(ctx)
	logger := klog.FromContext(ctx)
	if err != nil {
		if ctx.Err() == nil && !r.down {
			r.down = true
			logger.Error(err, "The container runtime does not answer: pods are left as they are until it does")
		}
		return
	}
	if r.down {
		r.down = false
		logger.Info("The container runtime answers again")
		for _, w := range r.m.all() {
			w.wakeUp()
		}
	}
	for uid, snap := range now {
		if !maps.Equal(snap, r.before[uid]) {
			r.changed(uid)
		}
	}
	for uid := range r.before {
		if now[uid] == nil {
			r.changed(uid)
		}
	}
	r.before = now
	for uid := range now {
		r.removeOrphan(logger, "Removing what is left of a pod that is not wanted on this device", names[uid])
	}
	r.sweep(logger)
}

// sweep removes, once the cloud has said what it wants, the files of pods whose record was lost or could not be read.
func (r *relister) sweep(logger klog.Logger) {
	r.mu.Lock()
	due := r.desired != nil && !r.swept
	r.swept = r.swept || due
	r.mu.Unlock()
	if !due {
		return
	}
	uids, err := r.m.volumes.Pods()
	if err != nil {
		logger.Error(err, "Directories of pods cannot be listed")
	}
	recorded, err := r.m.store.UIDs()
	if err != nil {
		logger.Error(err, "Records of pods cannot be listed")
	}
	for uid := range recorded.Insert(uids...) {
		r.removeOrphan(logger, "Removing the files of a pod that is not wanted on this device", &edgeapi.DeletePod{Uid: uid})
	}
}

// list returns what each pod has in the runtime, and the pods' names.
func (r *relister) list(ctx context.Context) (map[string]snapshot, map[string]*edgeapi.DeletePod, error) {
	// cri-client logs each error; here one message per outage is enough.
	ctx = logr.NewContext(ctx, logr.Discard())
	selector := map[string]string{podutil.LabelManagedBy: r.m.cfg.Owner}
	sandboxes, err := r.m.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: selector})
	if err != nil {
		return nil, nil, err
	}
	containers, err := r.m.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: selector})
	if err != nil {
		return nil, nil, err
	}
	now := map[string]snapshot{}
	names := map[string]*edgeapi.DeletePod{}
	add := func(labels map[string]string, id string, state int32) {
		uid := labels[types.KubernetesPodUIDLabel]
		if now[uid] == nil {
			now[uid] = snapshot{}
			names[uid] = &edgeapi.DeletePod{
				Uid: uid, Namespace: labels[types.KubernetesPodNamespaceLabel], Name: labels[types.KubernetesPodNameLabel],
				GracePeriodSeconds: minGrace,
			}
		}
		now[uid][id] = state
	}
	for _, s := range sandboxes {
		add(s.Labels, s.Id, int32(s.State))
	}
	for _, c := range containers {
		add(c.Labels, c.Id, int32(c.State))
	}
	return now, names, nil
}

func (r *relister) changed(uid string) {
	if w := r.m.worker(uid); w != nil {
		w.wakeUp()
	}
}

// removeOrphan removes a pod that has no worker and is not wanted. Until the cloud has said what it wants,
// no pod is such: the record of this one may have been lost. The pod may come from the cloud at this moment, or its
// worker may have removed it since it was found.
func (r *relister) removeOrphan(logger klog.Logger, what string, d *edgeapi.DeletePod) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	r.mu.Lock()
	unwanted := r.desired != nil && !r.desired[d.Uid] && !r.gone[d.Uid]
	r.mu.Unlock()
	if unwanted && r.m.workers[d.Uid] == nil && r.m.static[d.Uid] == nil { // a static one may wait for another to go
		logger.Info(what, "podUID", d.Uid)
		r.m.deletePodLocked(d)
	}
}

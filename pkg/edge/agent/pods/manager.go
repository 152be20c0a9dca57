package pods

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/images"
	"arhat.dev/aranya/pkg/edge/agent/pods/admission"
	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
	"arhat.dev/aranya/pkg/edge/agent/store"
	"arhat.dev/aranya/pkg/edge/agent/volumes"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/restartpolicy"
)

const (
	// maxPods bounds the pods that a device holds, whatever the cloud asks for.
	maxPods = 2000
	// maxParallelPulls bounds the images that are pulled at the same time.
	maxParallelPulls = 2

	initialBackOff = 10 * time.Second
	maxBackOff     = 5 * time.Minute

	resolvConf = "/etc/resolv.conf"
	// resolvedConf is where systemd-resolved, which listens on the loopback, lists the servers that it asks.
	resolvedConf = "/run/systemd/resolve/resolv.conf"

	// ReasonCorruptState is of events about the device itself, for what it has lost of its own state.
	ReasonCorruptState = "CorruptState"
)

// Manager runs the pods of a device. Its methods may be called concurrently and, Run excepted, do
// not block.
type Manager struct {
	cfg     Config
	store   *store.Store
	volumes *volumes.Volumes
	puller  *images.Puller
	backOff *flowcontrol.Backoff // of containers that end too soon
	probes  *prober
	events  *recorder
	relist  *relister
	ledger  *admission.Ledger // of what the pods have asked for

	runtimeName  func(context.Context) string
	cgroupDriver func(context.Context) string
	saveStatus   func(uid string, s *v1.PodStatus, sync bool) error
	sharesMu     sync.Mutex // over the cpu shares that pods have together

	mu      sync.Mutex
	node    NodeInfo
	workers map[string]*worker // by UID
	// static are the pods of the device's own folder by UID; nil until it was read.
	static map[string]*desired
	ctx    context.Context // of Run; nil before and after
	wg     sync.WaitGroup
}

// New reads the record of pods from the state directory. Nothing is started before Run.
func New(cfg Config) (*Manager, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	st, err := store.Open(filepath.Join(cfg.StateDir, "desired"), cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("record of pods: %w", err)
	}
	access, accessErr := images.NewAccess(st)
	m := &Manager{
		cfg:     cfg,
		store:   st,
		volumes: volumes.New(filepath.Join(cfg.StateDir, "pods"), cfg.AgentRights),
		puller:  images.NewPuller(cfg.Runtime, access, cfg.Clock, maxParallelPulls),
		backOff: flowcontrol.NewFakeBackOff(initialBackOff, maxBackOff, cfg.Clock), // the only constructor that takes a clock
		events:  newRecorder(cfg.Sink, cfg.Clock),
		node:    cfg.Node,
		ledger:  admission.NewLedger(),
		workers: map[string]*worker{},
	}
	m.ledger.SetAllocatable(cfg.Node.Allocatable)
	m.probes = newProber(m)
	m.relist = newRelister(m)
	m.saveStatus = st.SaveStatus
	m.runtimeName = onceKnown(func(ctx context.Context) (string, error) {
		version, err := cfg.Runtime.Version(ctx, "")
		return version.GetRuntimeName(), err
	})
	m.cgroupDriver = onceKnown(func(ctx context.Context) (string, error) {
		config, err := cfg.Runtime.RuntimeConfig(ctx)
		return config.GetLinux().GetCgroupDriver().String(), err
	})
	if accessErr != nil {
		m.events.event("", "", v1.EventTypeWarning, ReasonCorruptState, accessErr.Error())
	}
	m.restore()
	return m, nil
}

// restore makes a worker for each pod on record.
func (m *Manager) restore() {
	logger := klog.Background().WithName("pods")
	records, errs := m.store.Load()
	for _, err := range errs {
		logger.Error(err, "Not all of the record of pods is as it should be: what is lost comes again from the cloud or the runtime")
		m.events.event("", "", v1.EventTypeWarning, ReasonCorruptState, err.Error())
	}
	for uid, record := range records {
		w := m.newWorker(uid)
		if record.Pod != nil {
			desired, err := newDesired(record.Pod)
			if err != nil {
				logger.Error(err, "A record of a pod cannot be used", "podUID", uid)
				m.events.event("", "", v1.EventTypeWarning, ReasonCorruptState, "A record of a pod cannot be used: "+err.Error())
				continue
			}
			w.desired = desired
		}
		if w.desired != nil && record.Deletion == nil && record.StatusLost && !record.Pod.Static && restartpolicy.MayEnd(w.desired.pod) {
			logger.Info("Waiting for the cloud to say whether a pod has ended: its status was lost", "pod", klog.KObj(w.desired.pod), "podUID", uid)
			continue
		}
		w.deletion = record.Deletion
		w.restoreStatus(record.Status)
		w.saved, w.savedDeletion = w.desired, w.deletion
		m.workers[uid] = w
	}
	m.reclaim()
}

// reclaim admits the pods on record again, those first that the device has had before, by age: if there
// is less room now than there was, the youngest go without.
func (m *Manager) reclaim() {
	workers := slices.Collect(maps.Values(m.workers))
	workers = slices.DeleteFunc(workers, func(w *worker) bool { return w.desired == nil })
	slices.SortFunc(workers, func(a, b *worker) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), a.desired.pod.CreationTimestamp.Compare(b.desired.pod.CreationTimestamp.Time), cmp.Compare(a.uid, b.uid))
	})
	for _, w := range workers {
		w.claim()
	}
}

// rank is more for a pod that the device has had before, and most for one that has run, as a static one may
// have waited only.
func rank(w *worker) int {
	if !w.known() {
		return 0
	}
	for _, statuses := range [][]v1.ContainerStatus{w.last.InitContainerStatuses, w.last.ContainerStatuses} {
		if slices.ContainsFunc(statuses, func(s v1.ContainerStatus) bool { return s.ContainerID != "" }) {
			return 2
		}
	}
	return 1
}

// Run keeps the pods running until the context ends, and returns when all its goroutines are done.
// Containers stay as they are. It is called once.
func (m *Manager) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("pods")
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, logger))
	defer cancel()
	m.mu.Lock()
	if m.ctx != nil {
		m.mu.Unlock()
		return errors.New("pods: Run was called before")
	}
	m.ctx = ctx
	for _, w := range m.workers {
		m.start(w)
	}
	m.mu.Unlock()
	m.wg.Go(func() { m.rotateLogs(ctx) })
	m.relist.run(ctx)
	cancel()
	m.wg.Wait()
	m.puller.Close()
	return nil
}

// start runs a worker. Called with the lock held.
func (m *Manager) start(w *worker) {
	if m.ctx == nil || m.ctx.Err() != nil {
		return
	}
	ctx := m.ctx
	m.wg.Go(func() {
		w.run(ctx)
	})
}

// worker returns the worker of a pod, or nil.
func (m *Manager) worker(uid string) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[uid]
}

// finished forgets a worker that has nothing left to do.
func (m *Manager) finished(w *worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workers[w.uid] == w {
		delete(m.workers, w.uid)
		m.relist.removeDesired(w.uid)
	}
	m.events.forget(w.uid)
	m.startStatic() // one of the same name may have waited
}

// release gives back what a pod had claimed, and wakes those that wait for it.
func (m *Manager) release(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.releaseLocked(uid)
}

func (m *Manager) releaseLocked(podUID string) {
	if !m.ledger.Release(podUID) {
		return
	}
	for _, w := range m.workers {
		if w.uid != podUID && w.waitsForRoom.Load() {
			w.wakeUp()
		}
	}
}

// all returns the workers of the moment.
func (m *Manager) all() []*worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.workers))
}

// nodeConfig is the device as the configuration of pods needs it.
func (m *Manager) nodeConfig() *criconfig.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	memory := m.node.Capacity[v1.ResourceMemory]
	node := &criconfig.Node{
		Name:           m.node.Name,
		HostIPs:        m.node.HostIPs,
		Allocatable:    m.node.Allocatable,
		MemoryCapacity: memory.Value(),
		PodDNS:         m.node.PodDNS,
		ResolvConf:     m.cfg.ResolvConf,
		SeccompRoot:    m.cfg.SeccompDir,
		SELinux:        criconfig.SELinuxEnabled(),
		Owner:          m.cfg.Owner,
		LogDir:         m.cfg.LogDir,
	}
	if node.ResolvConf == "" {
		node.ResolvConf, node.UpstreamResolvConf = resolvConf, resolvedConf
	}
	return node
}

// onceKnown asks until there is an answer, and remembers that. Without one it is empty.
func onceKnown(ask func(context.Context) (string, error)) func(context.Context) string {
	var mu sync.Mutex
	var known string
	return func(ctx context.Context) string {
		mu.Lock()
		defer mu.Unlock()
		if known == "" {
			if answer, err := ask(ctx); err == nil {
				known = answer
			}
		}
		return known
	}
}

// Digests lists every pod that the device holds for the cloud.
func (m *Manager) Digests() []*edgeapi.PodDigest {
	var digests []*edgeapi.PodDigest
	for _, w := range m.all() {
		if w.isStatic() {
			continue
		}
		if d := w.digest(); d != nil {
			digests = append(digests, d)
		}
	}
	return digests
}

// ResendStatuses gives the last status of every pod to the Sink again.
func (m *Manager) ResendStatuses() {
	for _, w := range m.all() {
		w.resend()
	}
}

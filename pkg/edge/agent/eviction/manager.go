package eviction

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/util/qos"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

const (
	// DefaultPeriod is how often the device is looked at, as by the kubelet.
	DefaultPeriod = 10 * time.Second
	// immediateGrace is what pods get in seconds when a hard threshold or a limit is exceeded.
	immediateGrace = 1
	// minWait is how long a pod that is evicted has at least before another is, if it does not stop.
	minWait = 10 * time.Second
)

// Pods are the pods of the device.
type Pods interface {
	// ActivePods returns those that have anything running, with their status. They are copies.
	ActivePods() []*v1.Pod
	// Evict has a pod stopped for good. Disruption says that it is not the pod's own fault. It does not wait.
	Evict(podUID string, graceSeconds int64, message string, disruption bool)
}

// Config is what a Manager works with. All but the periods and the clock is required.
type Config struct {
	Thresholds []Threshold
	// TransitionPeriod is how long a pressure lasts at least after it was last seen.
	TransitionPeriod time.Duration
	// MaxPodGrace in seconds bounds the grace period of pods when a soft threshold is exceeded.
	MaxPodGrace int64
	// Observe looks at the device.
	Observe func(context.Context) map[Signal]Observation
	// Usage measures the pods, by UID, and what those of onDisk keep on the disk: as it was last known, unless it shall
	// wait for that.
	Usage func(ctx context.Context, onDisk sets.Set[string], wait bool) (map[string]*statsapi.PodStats, error)
	// LayersApart tells whether the containers' own files lie in another file system, that of images, than what else
	// pods keep on the disk.
	LayersApart func(context.Context) bool
	Pods        Pods
	// Checks are for single pods, whatever is left on the device.
	Checks []Check
	// ReclaimDisk frees what no pod needs.
	ReclaimDisk []func(context.Context) error
	// Event tells the user about the device.
	Event func(eventType, reason, message string)
	// Changed is called after the conditions have.
	Changed func()
	Period  time.Duration
	Clock   clock.WithTicker
}

// Manager looks after the device. Its methods may be called concurrently.
type Manager struct {
	config Config

	mu         sync.Mutex
	conditions []v1.NodeConditionType

	// Of Run's goroutine alone:
	since    map[int]time.Time // when thresholds were first met, by index
	lastSeen map[v1.NodeConditionType]time.Time
	evicting map[string]time.Time // pods that are being stopped, and until when others wait for that
}

// New returns a Manager.
func New(c Config) *Manager {
	if c.Period <= 0 {
		c.Period = DefaultPeriod
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	return &Manager{config: c, since: map[int]time.Time{}, lastSeen: map[v1.NodeConditionType]time.Time{}, evicting: map[string]time.Time{}}
}

// Run looks at the device until the context ends.
func (m *Manager) Run(ctx context.Context) {
	ticker := m.config.Clock.NewTicker(m.config.Period)
	defer ticker.Stop()
	for {
		m.once(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// Pressure tells whether the device is, or was a moment ago, short of what a condition is about.
func (m *Manager) Pressure(condition v1.NodeConditionType) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.conditions, condition)
}

// Admit refuses pods that would make the pressure worse.
func (m *Manager) Admit(pod *v1.Pod) (reason, message string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.conditions) == 0 || spared(pod) {
		return "", "", true
	}
	if len(m.conditions) == 1 && m.conditions[0] == v1.NodeMemoryPressure {
		taint := &v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
		if qos.GetPodQOS(pod) != v1.PodQOSBestEffort || corev1helpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, taint, true) {
			return "", "", true
		}
	}
	return podutil.ReasonEvicted, fmt.Sprintf("The node had condition: %v. ", m.conditions), false
}

// once is one look at the device, after which at most one pod is stopped for its sake.
func (m *Manager) once(ctx context.Context) {
	observed := m.config.Observe(ctx)
	due := m.evaluate(observed)
	pods := m.candidates()
	if m.evictLimited(ctx, pods) || len(due) == 0 {
		return
	}
	if m.waiting() {
		return // what the last one frees is not known yet
	}
	t := due[0]
	resource := kinds[t.Signal].resource
	klog.FromContext(ctx).Info("The device runs out of something", "resource", resource, "signal", t.Signal, "available", observed[t.Signal].Available)
	m.config.Event(v1.EventTypeWarning, "EvictionThresholdMet", fmt.Sprintf("Attempting to reclaim %s", resource))
	if kinds[t.Signal].condition == v1.NodeDiskPressure && m.reclaimed(ctx) {
		return
	}
	m.evictOne(ctx, pods, t, m.config.Observe(ctx)[t.Signal])
}

// evaluate brings the conditions up to date, and returns the thresholds that have been exceeded for long
// enough, memory first and hard ones before soft ones.
func (m *Manager) evaluate(observed map[Signal]Observation) []*Threshold {
	now := m.config.Clock.Now()
	var due []*Threshold
	for i := range m.config.Thresholds {
		t := &m.config.Thresholds[i]
		begun, unresolved := m.since[i]
		if begun.After(now) { // the clock was set back
			begun = now
			m.since[i] = now
		}
		if !t.met(observed[t.Signal], unresolved) {
			delete(m.since, i)
			continue
		}
		if !unresolved {
			begun = now
			m.since[i] = now
		}
		m.lastSeen[kinds[t.Signal].condition] = now
		if now.Sub(begun) >= t.Grace {
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, func(a, b *Threshold) int { return first(a.Signal == MemoryAvailable, b.Signal == MemoryAvailable) })
	var conditions []v1.NodeConditionType
	for _, c := range []v1.NodeConditionType{v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure} {
		seen, ok := m.lastSeen[c]
		switch {
		case ok && seen.After(now):
			m.lastSeen[c] = now
			fallthrough
		case ok && (seen.Equal(now) || now.Sub(seen) < m.config.TransitionPeriod):
			conditions = append(conditions, c)
		}
	}
	m.mu.Lock()
	changed := !slices.Equal(m.conditions, conditions)
	m.conditions = conditions
	m.mu.Unlock()
	if changed {
		m.config.Changed()
	}
	return due
}

// candidates are the pods that may be stopped and are not already.
func (m *Manager) candidates() []*v1.Pod {
	pods := m.config.Pods.ActivePods()
	active := map[string]bool{}
	for _, pod := range pods {
		active[string(pod.UID)] = true
	}
	for uid := range m.evicting {
		if !active[uid] {
			delete(m.evicting, uid)
		}
	}
	return slices.DeleteFunc(pods, func(pod *v1.Pod) bool {
		_, evicting := m.evicting[string(pod.UID)]
		return evicting || spared(pod)
	})
}

// waiting tells whether there is a pod that has still time to stop.
func (m *Manager) waiting() bool {
	now := m.config.Clock.Now()
	for _, deadline := range m.evicting {
		if now.Before(deadline) {
			return true
		}
	}
	return false
}

// evictLimited stops the pods that exceed their own limits, and tells whether there were any.
func (m *Manager) evictLimited(ctx context.Context, pods []*v1.Pod) bool {
	limited := sets.New[string]()
	for _, pod := range pods {
		if slices.ContainsFunc(m.config.Checks, func(c Check) bool { return c.Limited(pod) }) {
			limited.Insert(string(pod.UID))
		}
	}
	if limited.Len() == 0 {
		return false
	}
	stats, err := m.config.Usage(ctx, limited, false)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("What pods keep on the disk is not known", "err", err)
		return false
	}
	evicted := false
	for _, pod := range pods {
		s := stats[string(pod.UID)]
		for _, check := range m.config.Checks {
			if s == nil || !check.Limited(pod) {
				continue
			}
			if message := check.Exceeded(pod, s); message != "" {
				m.evict(ctx, pod, immediateGrace, message, false)
				evicted = true
				break
			}
		}
	}
	return evicted
}

// reclaimed frees what no pod needs, and tells whether that was enough.
func (m *Manager) reclaimed(ctx context.Context) bool {
	for _, reclaim := range m.config.ReclaimDisk {
		if err := reclaim(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Not all of what no pod needs could be removed")
		}
	}
	observed := m.config.Observe(ctx)
	for i := range m.config.Thresholds {
		if t := &m.config.Thresholds[i]; t.met(observed[t.Signal], true) {
			return false
		}
	}
	return true
}

// evictOne stops the pod that has to go first.
func (m *Manager) evictOne(ctx context.Context, pods []*v1.Pod, t *Threshold, o Observation) {
	if len(pods) == 0 {
		klog.FromContext(ctx).Info("The device runs out of something, but there is no pod that may be evicted", "signal", t.Signal)
		return
	}
	measure, files := sets.New[string](), allFiles
	if onDisk(kinds[t.Signal].resource) {
		files = partOf(t.Signal, m.config.LayersApart(ctx))
		for _, pod := range pods {
			measure.Insert(string(pod.UID))
		}
	}
	stats, err := m.config.Usage(ctx, measure, true)
	if err != nil {
		klog.FromContext(ctx).Error(err, "No pod is evicted: what they use is not known")
		return
	}
	rank(pods, stats, kinds[t.Signal].resource, files)
	pod := pods[0]
	grace := int64(immediateGrace)
	if t.Grace > 0 {
		grace = m.config.MaxPodGrace
		if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
			grace = min(grace, *own)
		}
	}
	m.evict(ctx, pod, grace, message(pod, stats[string(pod.UID)], t, o), true)
}

func (m *Manager) evict(ctx context.Context, pod *v1.Pod, grace int64, message string, disruption bool) {
	klog.FromContext(ctx).Info("Evicting a pod", "pod", klog.KObj(pod), "podUID", pod.UID, "message", message)
	// As long as the kubelet waits, which then turns to others, too.
	m.evicting[string(pod.UID)] = m.config.Clock.Now().Add(max(minWait, time.Duration(grace)*time.Second*3/2))
	m.config.Pods.Evict(string(pod.UID), grace, message, disruption)
}

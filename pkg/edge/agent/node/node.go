// Package node describes a device as a Node: capacity, system facts, addresses and conditions, from
// real measurement. It decides what a v1.NodeStatus says and when it has changed enough to be worth
// sending; resource usage is the business of package stats.
package node

import (
	"context"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

const (
	// period is how often a device is looked at, and imagesPeriod how often its images are.
	period       = 10 * time.Second
	imagesPeriod = 5 * time.Minute
	// unreadyPeriod is how often it is looked at while it is not ready: the end of that must not wait.
	unreadyPeriod = time.Second
	// justNow is for how long a look at a device that is ready need not be repeated: it is looked at when the
	// agent starts, when that begins to watch it, and when it connects, all in one moment.
	justNow = time.Second
	// maxImages is how many images a status lists, as the kubelet does.
	maxImages = 50
	// callTimeout bounds a call to the container runtime.
	callTimeout = 10 * time.Second
)

// Config is what a Collector works with.
type Config struct {
	Runtime runtime.Runtime
	// Reserved is what of the capacity pods cannot have.
	Reserved func(capacity v1.ResourceList) v1.ResourceList
	// NodeIP overrides the detected address.
	NodeIP string
	// StateDir lies in the file system whose space pods may use.
	StateDir string
	// Version of the agent.
	Version string
	// Period is how often the device is looked at. Defaults to 10 s.
	Period time.Duration
	// Pressure tells whether the device runs out of what a condition is about; see Poke.
	Pressure func(v1.NodeConditionType) bool
	// Clock defaults to the real one.
	Clock clock.WithTicker

	// Machine is taken for the machine instead of what it is at the moment.
	Machine *Snapshot

	system facts // where facts come from; tests have their own
}

// Collector keeps the status of the device. Its methods may be called concurrently.
type Collector struct {
	config Config
	poke   chan struct{}

	mu         sync.Mutex
	status     *v1.NodeStatus
	lookedAt   time.Time
	hostIPs    []string // at the time of status
	capacity   int32    // pods; 0: not known yet
	conditions conditions
	version    string // of the runtime
	images     []v1.ContainerImage
	imagesAt   time.Time
}

// New returns a Collector; Refresh or Run give it its first status.
func New(c Config) *Collector {
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Period <= 0 {
		c.Period = period
	}
	switch {
	case c.system != nil:
	case c.Machine != nil:
		c.system = c.Machine
	default:
		c.system = hostSystem
	}
	return &Collector{config: c, poke: make(chan struct{}, 1), conditions: conditions{clock: c.Clock}}
}

// SetPodCapacity sets the most pods that the device may run. Run reports the change.
func (c *Collector) SetPodCapacity(n int32) {
	c.mu.Lock()
	changed := c.capacity != n
	c.capacity = n
	c.mu.Unlock()
	if changed {
		c.Poke()
	}
}

// Poke makes Run look at the device now.
func (c *Collector) Poke() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Status is the last status, nil before the first. It must not be modified.
func (c *Collector) Status() *v1.NodeStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// HostIPs are the addresses of the device that its pods have, primary first, one per family. Those of
// the last status; they must not be modified.
func (c *Collector) HostIPs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hostIPs
}

// Run looks at the device until ctx ends and calls changed after each change of its status, from
// this goroutine.
func (c *Collector) Run(ctx context.Context, changed func(*v1.NodeStatus)) {
	status, news := c.recent(ctx)
	for ; ; status, news = c.Refresh(ctx) {
		if news {
			changed(status)
		}
		next := c.config.Period
		if !isReady(status) {
			next = min(next, unreadyPeriod)
		}
		timer := c.config.Clock.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		case <-c.poke:
			timer.Stop()
		}
	}
}

// Recent is the status of just now: it looks at the device, unless that was done within the last second.
func (c *Collector) Recent(ctx context.Context) *v1.NodeStatus {
	status, _ := c.recent(ctx)
	return status
}

func (c *Collector) recent(ctx context.Context) (status *v1.NodeStatus, news bool) {
	c.mu.Lock()
	status, at := c.status, c.lookedAt
	c.mu.Unlock()
	if status != nil && isReady(status) && c.config.Clock.Since(at) < justNow {
		return status, false
	}
	return c.Refresh(ctx)
}

// Refresh looks at the device now. The second result tells whether the status has changed.
func (c *Collector) Refresh(ctx context.Context) (*v1.NodeStatus, bool) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	measured := c.config.system.measure(c.config.StateDir)
	ips := c.config.system.hostIPs(c.config.NodeIP)
	runtimeState := c.askRuntime(ctx)

	c.mu.Lock()
	defer c.mu.Unlock()
	status := &v1.NodeStatus{
		Capacity:        capacity(measured, c.capacity),
		NodeInfo:        c.config.system.info(c.config.Version),
		Addresses:       addresses(ips, measured.hostname),
		Images:          c.images,
		RuntimeHandlers: runtimeState.handlers,
		Features:        runtimeState.features,
		// To be compared and sent, not to be changed.
		DeclaredFeatures: declaredFeatures,
	}
	status.NodeInfo.ContainerRuntimeVersion = c.version
	status.Allocatable = allocatable(status.Capacity, c.config.Reserved(status.Capacity))
	status.Conditions = c.conditions.update(c.config.Pressure, runtimeState)
	c.hostIPs, c.lookedAt = ips, c.config.Clock.Now()
	if c.status != nil && equality.Semantic.DeepEqual(c.status, status) {
		return c.status, false
	}
	c.status = status
	return status, true
}

func addresses(ips []string, hostname string) []v1.NodeAddress {
	var list []v1.NodeAddress
	for _, ip := range ips {
		list = append(list, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	if hostname != "" {
		list = append(list, v1.NodeAddress{Type: v1.NodeHostName, Address: hostname})
	}
	return list
}

// runtimeState is what the container runtime said.
type runtimeState struct {
	err      error
	ready    bool
	problems []string // conditions of the runtime that are not met
	handlers []v1.NodeRuntimeHandler
	features *v1.NodeFeatures
}

// askRuntime also refreshes what is asked for less often: the version, after the runtime was away,
// and the images.
func (c *Collector) askRuntime(ctx context.Context) runtimeState {
	response, err := c.config.Runtime.Status(ctx, false)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("The container runtime does not answer", "err", err)
		c.mu.Lock()
		c.imagesAt = time.Time{}
		c.mu.Unlock()
		return runtimeState{err: err}
	}
	state := readRuntimeStatus(response)
	now := c.config.Clock.Now()
	c.mu.Lock()
	due := c.imagesAt.IsZero() || now.Sub(c.imagesAt) >= imagesPeriod
	c.mu.Unlock()
	if !due {
		return state
	}
	version, versionErr := c.config.Runtime.Version(ctx, "")
	images, imagesErr := c.config.Runtime.ListImages(ctx, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	if versionErr == nil {
		c.version = version.RuntimeName + "://" + version.RuntimeVersion
	}
	if imagesErr == nil {
		c.images = nodeImages(images)
	}
	if versionErr == nil && imagesErr == nil {
		c.imagesAt = now
	}
	return state
}

// allocatable is never negative.
func allocatable(capacity, reserved v1.ResourceList) v1.ResourceList {
	list := maps.Clone(capacity)
	for name, q := range reserved {
		left, ok := list[name]
		if !ok {
			continue
		}
		left.Sub(q)
		if left.Sign() < 0 {
			left.Set(0)
		}
		list[name] = left
	}
	// Memory in huge pages is not there for anybody else.
	memory := list[v1.ResourceMemory]
	for name, q := range capacity {
		if isHugePages(name) {
			memory.Sub(q)
		}
	}
	if memory.Sign() < 0 {
		memory.Set(0)
	}
	list[v1.ResourceMemory] = memory
	return list
}

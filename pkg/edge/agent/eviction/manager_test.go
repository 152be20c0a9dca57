package eviction

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device is what a Manager sees of one.
type device struct {
	*Manager
	clock     *clocktesting.FakeClock
	left      map[Signal]Observation
	pods      []*v1.Pod
	stats     map[string]*statsapi.PodStats
	statsErr  error
	measured  int
	onDisk    []string // pods whose disk was measured the last time
	waited    bool
	evicted   []string
	graces    []int64
	reclaim   func()
	reclaimed int
	events    []string
	changes   int
}

func (d *device) ActivePods() []*v1.Pod { return slices.Clone(d.pods) }

func (d *device) Evict(uid string, grace int64, _ string, _ bool) {
	d.evicted = append(d.evicted, uid)
	d.graces = append(d.graces, grace)
}

// gone is that a pod has stopped.
func (d *device) gone(uid string) {
	d.pods = slices.DeleteFunc(d.pods, func(p *v1.Pod) bool { return string(p.UID) == uid })
}

func newDevice(thresholds ...Threshold) *device {
	d := &device{clock: clocktesting.NewFakeClock(time.Unix(1e9, 0)), left: map[Signal]Observation{}, stats: map[string]*statsapi.PodStats{}}
	d.Manager = New(Config{
		Thresholds: thresholds, TransitionPeriod: 5 * time.Minute, MaxPodGrace: 20, Clock: d.clock, Pods: d,
		Observe: func(context.Context) map[Signal]Observation { return d.left },
		Usage: func(_ context.Context, onDisk sets.Set[string], wait bool) (map[string]*statsapi.PodStats, error) {
			d.measured++
			d.onDisk, d.waited = sets.List(onDisk), wait
			return d.stats, d.statsErr
		},
		LayersApart: func(context.Context) bool { return false },
		ReclaimDisk: []func(context.Context) error{func(context.Context) error {
			d.reclaimed++
			if d.reclaim != nil {
				d.reclaim()
			}
			return nil
		}},
		Event:   func(eventType, reason, message string) { d.events = append(d.events, eventType+" "+reason+" "+message) },
		Changed: func() { d.changes++ },
	})
	return d
}

func (d *device) pod(name string, memory uint64, change ...func(*v1.Pod)) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "main"}}}}
	for _, f := range change {
		f(pod)
	}
	d.pods = append(d.pods, pod)
	d.stats[name] = &statsapi.PodStats{Memory: &statsapi.MemoryStats{WorkingSetBytes: &memory}, EphemeralStorage: &statsapi.FsStats{UsedBytes: &memory, InodesUsed: &memory}}
}

func threshold(signal Signal, value int64) Threshold {
	return Threshold{Signal: signal, Value: config.Threshold{Value: value}}
}

func TestHardThreshold(t *testing.T) {
	d := newDevice(threshold(MemoryAvailable, 100))
	d.pod("small", 10)
	d.pod("large", 20)
	d.left[MemoryAvailable] = Observation{Available: 100, Capacity: 1000}
	d.once(t.Context())
	if len(d.evicted) != 0 || d.Pressure(v1.NodeMemoryPressure) || d.measured != 0 {
		t.Errorf("with enough left: evicted %q, measured %d times", d.evicted, d.measured)
	}
	d.left[MemoryAvailable] = Observation{Available: 99, Capacity: 1000}
	d.once(t.Context())
	if !slices.Equal(d.evicted, []string{"large"}) || d.graces[0] != 1 || !d.Pressure(v1.NodeMemoryPressure) || d.changes != 1 || d.reclaimed != 0 {
		t.Errorf("evicted %q with %v, %d changes", d.evicted, d.graces, d.changes)
	}
	if !slices.Equal(d.events, []string{"Warning EvictionThresholdMet Attempting to reclaim memory"}) {
		t.Errorf("events %q", d.events)
	}
	// As long as that one is stopping no other has to go.
	d.once(t.Context())
	d.gone("large")
	if len(d.evicted) != 1 {
		t.Errorf("evicted %q", d.evicted)
	}
	d.once(t.Context())
	if !slices.Equal(d.evicted, []string{"large", "small"}) {
		t.Errorf("evicted %q", d.evicted)
	}
	// The condition outlasts the shortage.
	d.left[MemoryAvailable] = Observation{Available: 500, Capacity: 1000}
	d.clock.Step(5*time.Minute - time.Second)
	d.once(t.Context())
	if !d.Pressure(v1.NodeMemoryPressure) {
		t.Error("the pressure is over at once")
	}
	d.clock.Step(time.Second)
	d.once(t.Context())
	if d.Pressure(v1.NodeMemoryPressure) || d.changes != 2 {
		t.Errorf("the pressure stays, %d changes", d.changes)
	}
}

// TestStuckPod has a pod that is evicted first and never stops, as one with a process that the kernel cannot end.
func TestStuckPod(t *testing.T) {
	stuck := func(pod *v1.Pod) bool { return pod.Name == "stuck" }
	for name, tc := range map[string]struct {
		soft     bool
		checks   []Check
		patience time.Duration
	}{
		"hard threshold": {patience: 10 * time.Second},
		"soft threshold": {soft: true, patience: 30 * time.Second},
		"its own limit":  {checks: []Check{{Limited: stuck, Exceeded: func(*v1.Pod, *statsapi.PodStats) string { return "too much" }}}, patience: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			low := threshold(MemoryAvailable, 100)
			if tc.soft {
				low.Grace = time.Nanosecond
			}
			d := newDevice(low)
			d.config.Checks = tc.checks
			d.pod("stuck", 20)
			d.pod("large", 10)
			d.left[MemoryAvailable] = Observation{Available: 99, Capacity: 1000}
			if tc.soft {
				d.once(t.Context())
				d.clock.Step(low.Grace)
			}
			d.once(t.Context())
			d.clock.Step(tc.patience - time.Nanosecond)
			d.once(t.Context())
			if want := []string{"stuck"}; !slices.Equal(d.evicted, want) {
				t.Errorf("evicted %q before that one had its time, want %q", d.evicted, want)
			}
			d.clock.Step(time.Nanosecond)
			d.once(t.Context())
			if want := []string{"stuck", "large"}; !slices.Equal(d.evicted, want) {
				t.Errorf("evicted %q, want %q", d.evicted, want)
			}
			d.gone("large")
			d.once(t.Context())
			if len(d.evicted) != 2 {
				t.Errorf("evicted %q: nobody gains from stopping a pod again that does not stop", d.evicted)
			}
		})
	}
}

func TestSoftThreshold(t *testing.T) {
	soft := threshold(MemoryAvailable, 100)
	soft.Grace, soft.MinReclaim = time.Minute, config.Threshold{Value: 50}
	d := newDevice(soft)
	d.pod("patient", 10, func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](300) })
	d.pod("quick", 5, func(p *v1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](3) })
	d.left[MemoryAvailable] = Observation{Available: 99, Capacity: 1000}
	d.once(t.Context())
	d.clock.Step(59 * time.Second)
	d.once(t.Context())
	if len(d.evicted) != 0 || !d.Pressure(v1.NodeMemoryPressure) {
		t.Errorf("evicted %q before the grace period", d.evicted)
	}
	d.clock.Step(time.Second)
	d.once(t.Context())
	d.gone("patient")
	// It is not over before the minimum has been reclaimed.
	d.left[MemoryAvailable] = Observation{Available: 149, Capacity: 1000}
	d.once(t.Context())
	if !slices.Equal(d.evicted, []string{"patient", "quick"}) || !slices.Equal(d.graces, []int64{20, 3}) {
		t.Errorf("evicted %q with %v", d.evicted, d.graces)
	}
	d.left[MemoryAvailable] = Observation{Available: 150, Capacity: 1000}
	d.once(t.Context())
	d.left[MemoryAvailable] = Observation{Available: 99, Capacity: 1000}
	d.pod("next", 1)
	d.once(t.Context())
	if len(d.evicted) != 2 {
		t.Errorf("a new shortage has no grace period: evicted %q", d.evicted)
	}
}

// TestClockJumps moves the clock by a year both ways.
func TestClockJumps(t *testing.T) {
	for name, jump := range map[string]time.Duration{"back": -365 * 24 * time.Hour, "forth": 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			soft := threshold(MemoryAvailable, 100)
			soft.Grace = time.Minute
			d := newDevice(soft)
			d.left[MemoryAvailable] = Observation{Available: 99, Capacity: 1000}
			d.once(t.Context())
			d.clock.SetTime(d.clock.Now().Add(jump))
			d.once(t.Context())
			if !d.Pressure(v1.NodeMemoryPressure) {
				t.Error("the pressure is forgotten")
			}
			d.left[MemoryAvailable] = Observation{Available: 900, Capacity: 1000}
			d.once(t.Context())
			d.clock.Step(5 * time.Minute)
			d.once(t.Context())
			if d.Pressure(v1.NodeMemoryPressure) {
				t.Error("the pressure does not end")
			}
		})
	}
}

func TestDisk(t *testing.T) {
	d := newDevice(threshold(NodeFsAvailable, 100), threshold(ImageFsInodesFree, 10))
	d.pod("p", 5)
	d.left[NodeFsAvailable] = Observation{Available: 50, Capacity: 1000}
	d.reclaim = func() { d.left[NodeFsAvailable] = Observation{Available: 100, Capacity: 1000} }
	d.once(t.Context())
	if d.reclaimed != 1 || len(d.evicted) != 0 || !d.Pressure(v1.NodeDiskPressure) {
		t.Errorf("evicted %q though what nobody needs was enough, %d times reclaimed", d.evicted, d.reclaimed)
	}
	d.reclaim = nil
	d.left[ImageFsInodesFree] = Observation{Available: 5, Capacity: 1000}
	d.once(t.Context())
	if !slices.Equal(d.evicted, []string{"p"}) || d.events[1] != "Warning EvictionThresholdMet Attempting to reclaim inodes" {
		t.Errorf("evicted %q, events %q", d.evicted, d.events)
	}
}

func TestUnknown(t *testing.T) {
	d := newDevice(threshold(MemoryAvailable, 100))
	d.pod("p", 5)
	d.left[MemoryAvailable] = Observation{} // not known
	d.once(t.Context())
	d.left[MemoryAvailable], d.statsErr = Observation{Available: 1, Capacity: 1000}, errors.New("the runtime is away")
	d.once(t.Context())
	if len(d.evicted) != 0 {
		t.Errorf("evicted %q without knowing what it uses", d.evicted)
	}
}

// TestDiskMeasured checks whose disk is read, and when that is waited for: a large volume must not hold up the next look.
func TestDiskMeasured(t *testing.T) {
	limited := Check{Limited: func(p *v1.Pod) bool { return p.Name == "limited" }, Exceeded: func(*v1.Pod, *statsapi.PodStats) string { return "" }}
	for name, tc := range map[string]struct {
		checks   []Check
		short    Signal
		measured int
		onDisk   []string
		waited   bool
	}{
		"enough of all":       {},
		"a limit of its own":  {checks: []Check{limited}, measured: 1, onDisk: []string{"limited"}},
		"memory runs out":     {short: MemoryAvailable, measured: 1, waited: true},
		"the disk fills":      {short: NodeFsAvailable, measured: 1, onDisk: []string{"limited", "other"}, waited: true},
		"inodes of images":    {short: ImageFsInodesFree, measured: 1, onDisk: []string{"limited", "other"}, waited: true},
		"a limit, and memory": {checks: []Check{limited}, short: MemoryAvailable, measured: 2, waited: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(threshold(MemoryAvailable, 100), threshold(NodeFsAvailable, 100), threshold(ImageFsInodesFree, 100))
			d.config.Checks = tc.checks
			d.pod("limited", 1)
			d.pod("other", 1)
			d.pod("critical", 1, func(p *v1.Pod) { p.Spec.Priority = ptr.To[int32](2000000000) })
			if tc.short != "" {
				d.left[tc.short] = Observation{Available: 99, Capacity: 1000}
			}
			d.once(t.Context())
			if d.measured != tc.measured || !slices.Equal(d.onDisk, tc.onDisk) || d.waited != tc.waited {
				t.Errorf("measured %d times, at last the disk of %q, waited %t; want %d, %q, %t", d.measured, d.onDisk, d.waited, tc.measured, tc.onDisk, tc.waited)
			}
		})
	}
}

func TestAdmit(t *testing.T) {
	burstable := func(p *v1.Pod) { p.Status.QOSClass = v1.PodQOSBurstable }
	tolerant := func(p *v1.Pod) {
		p.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists}}
	}
	critical := func(p *v1.Pod) { p.Spec.Priority = ptr.To[int32](2000000000) }
	static := func(p *v1.Pod) { p.UID = "0123456789abcdef0123456789abcdef" }
	pretender := func(p *v1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.source": "file"} }
	memory, disk := []v1.NodeConditionType{v1.NodeMemoryPressure}, []v1.NodeConditionType{v1.NodeMemoryPressure, v1.NodeDiskPressure}
	for name, tc := range map[string]struct {
		conditions []v1.NodeConditionType
		change     func(*v1.Pod)
		message    string // empty: admitted
	}{
		"no pressure":            {nil, nil, ""},
		"best effort":            {memory, nil, "The node had condition: [MemoryPressure]. "},
		"with requests":          {memory, burstable, ""},
		"tolerant":               {memory, tolerant, ""},
		"critical":               {disk, critical, ""},
		"static":                 {disk, static, ""},
		"annotated as static":    {disk, pretender, "The node had condition: [MemoryPressure DiskPressure]. "},
		"disk as well":           {disk, burstable, "The node had condition: [MemoryPressure DiskPressure]. "},
		"disk as well, tolerant": {disk, tolerant, "The node had condition: [MemoryPressure DiskPressure]. "},
	} {
		d := newDevice()
		d.conditions = tc.conditions
		d.pod("p", 0, func(p *v1.Pod) {
			if tc.change != nil {
				tc.change(p)
			}
		})
		reason, message, ok := d.Admit(d.pods[0])
		if ok != (tc.message == "") || message != tc.message || !ok && reason != "Evicted" {
			t.Errorf("%s: got %q, %q, %t", name, reason, message, ok)
		}
	}
}

func TestThresholdsOf(t *testing.T) {
	c := config.New()
	c.Server = "a:1"
	c.EvictionSoft, c.EvictionSoftGracePeriod = map[string]string{"memory.available": "1Gi"}, map[string]string{"memory.available": "90s"}
	c.EvictionMinimumReclaim = map[string]string{"nodefs.available": "1Gi"}
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	list := ThresholdsOf(&c.Housekeeping, 8<<30)
	if len(list) != 7 || list[6].Grace != 90*time.Second || list[2].Signal != MemoryAvailable || list[2].Value.Value != 100<<20 || list[3].MinReclaim.Value != 1<<30 {
		t.Errorf("got %+v", list)
	}
	if small := ThresholdsOf(&c.Housekeeping, 64<<20); small[2].Value.Of(1000) != 100 {
		t.Errorf("on a small device: %+v", small[2])
	}
	c.EvictionHard = map[string]string{"memory.available": "0%", "pid.available": "5%"}
	if list := ThresholdsOf(&c.Housekeeping, 64<<20); len(list) != 2 || list[0].Signal != PIDAvailable {
		t.Errorf("got %+v", list)
	}
}

// TestReservation checks what is kept from pods, as by the kubelet: hard thresholds of memory and of the
// file system of pods, and nothing else.
func TestReservation(t *testing.T) {
	capacity := v1.ResourceList{v1.ResourceMemory: resource.MustParse("4Gi"), v1.ResourceEphemeralStorage: resource.MustParse("50Gi")}
	for name, tc := range map[string]struct {
		housekeeping    config.Housekeeping
		memory, storage string
	}{
		"quantities and percentages": {
			config.Housekeeping{EvictionHard: map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "imagefs.available": "15%", "pid.available": "10%"}},
			"100Mi", "5Gi",
		},
		"soft ones do not count": {
			config.Housekeeping{
				EvictionHard: map[string]string{"memory.available": "25%"}, EvictionSoft: map[string]string{"memory.available": "50%", "nodefs.available": "20%"},
				EvictionSoftGracePeriod: map[string]string{"memory.available": "1m", "nodefs.available": "1m"},
			},
			"1Gi", "0",
		},
		"switched off": {config.Housekeeping{EvictionHard: map[string]string{"memory.available": "0", "nodefs.available": "0%"}}, "0", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Reservation(ThresholdsOf(&tc.housekeeping, 4<<30), capacity)
			if got.Memory().Cmp(resource.MustParse(tc.memory)) != 0 || got.StorageEphemeral().Cmp(resource.MustParse(tc.storage)) != 0 {
				t.Errorf("got %v", got)
			}
		})
	}
}

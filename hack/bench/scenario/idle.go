package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/rest"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

var idle = harness.Scenario{
	Name: "idle",
	Doc: "N devices connected, half of them with a Node, at rest: memory of aranya for each, writes and CPU while nothing happens, " +
		"bytes on the links",
	N:       1000,
	SmokeN:  10,
	Cluster: oneDevice,
	Run:     runIdle,
}

const (
	// restSpan is how long nothing happens: all Leases are renewed in it, every link has a heartbeat, and Go's
	// runtime collects garbage, as it does every two minutes if there is no other reason.
	restSpan, restSmokeSpan = 2 * time.Minute, time.Second
	// calmTime is how long no Node must change until what the deployment has left is over: controller-manager,
	// with its 20 requests/s, goes on for minutes after thousands of devices, and aranya has a thousand
	// events to write, also 20 in a second. calmLimit is how long that is waited for.
	calmTime, calmLimit = time.Minute, 10 * time.Minute
)

func runIdle(ctx context.Context, r *harness.Run) error {
	d, nodes, err := devicesAtRest(ctx, r)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // the devices go with their files, whatever they say
	if !r.Smoke {
		return nil // what it takes to delete them is measured by deploy
	}
	return d.deleteAll(ctx, nodes)
}

// devicesAtRest brings devices up, half of them with a Node, and measures while they rest. They must be
// closed, unless there is an error.
func devicesAtRest(ctx context.Context, r *harness.Run) (*devices, *nodeWatch, error) {
	direct, err := newSessions(r.Direct())
	if err != nil {
		return nil, nil, err
	}
	empty, err := liveMemory(ctx, direct)
	if err != nil {
		return nil, nil, err
	}
	d, nodes, err := startDevices(ctx, r, r.N, r.N/2)
	if err != nil {
		return nil, nil, err
	}
	if err := d.rest(ctx, nodes, direct, empty); err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	return d, nodes, nil
}

// rest measures devices that rest.
func (d *devices) rest(ctx context.Context, nodes *nodeWatch, direct *sessions, empty *memory) error {
	r := d.r
	pause, calm := restSpan, calmTime
	if r.Smoke {
		pause, calm = restSmokeSpan, restSmokeSpan
	}
	if err := nodes.calm(ctx, calm); err != nil {
		return err
	}
	if err := d.atRest(ctx, pause); err != nil {
		return err
	}
	full, err := liveMemory(ctx, direct)
	if err != nil {
		return err
	}
	if err := leaveProfiles(ctx, r, direct); err != nil {
		return err
	}
	target := report.AtMost(64)
	if r.Link == local.LinkMQTT {
		target = report.AtMost(32)
	}
	memoryFigures(r, empty, full, target)
	return nil
}

// atRest measures what happens while nothing happens.
func (d *devices) atRest(ctx context.Context, pause time.Duration) error {
	r := d.r
	total := func() int64 {
		sent, received := d.Bytes()
		return sent + received
	}
	before, err := startCosts(ctx, r)
	if err != nil {
		return err
	}
	bytes := total()
	if err := sleep(ctx, pause); err != nil {
		return err
	}
	after, err := startCosts(ctx, r)
	if err != nil {
		return err
	}
	bytes = total() - bytes
	seconds := after.at.Sub(before.at).Seconds()
	note := fmt.Sprintf("in %.0f s", seconds)
	for _, f := range []report.Figure{
		{Name: "writes to Kubernetes' etcd per device with a Node", Value: float64(after.kube-before.kube) / seconds / float64(d.withNodes), Unit: "1/s", Target: report.AtMost(0.05)},
		{Name: "writes to aranya's etcd per device", Value: float64(after.aranya-before.aranya) / seconds / float64(r.N), Unit: "1/s", Target: report.AtMost(0.001)},
		{Name: "CPU of aranya", Value: 100 * (after.usage[local.ServiceAranya].CPU - before.usage[local.ServiceAranya].CPU).Seconds() / seconds, Unit: "% of a core", Target: report.AtMost(10)},
		{Name: "bytes per device", Value: float64(bytes) / seconds / float64(r.N), Unit: "B/s", Target: report.AtMost(10)},
	} {
		f.Note = note
		r.Figure(f)
	}
	return nil
}

// leaveProfiles leaves beside the report what uses aranya's memory, and its CPU at rest.
func leaveProfiles(ctx context.Context, r *harness.Run, direct *sessions) error {
	cpu := "20"
	if r.Smoke {
		cpu = "1"
	}
	get := direct.client.Discovery().RESTClient().Get
	for file, request := range map[string]*rest.Request{
		"heap":       get().AbsPath("/debug/pprof/heap"),
		"goroutines": get().AbsPath("/debug/pprof/goroutine"),
		"cpu":        get().AbsPath("/debug/pprof/profile").Param("seconds", cpu),
	} {
		data, err := request.DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("profile of aranya: %w", err)
		}
		if err := r.Leave(file+".pb.gz", data); err != nil {
			return err
		}
	}
	return nil
}

// memory is what aranya uses after a garbage collection, in bytes.
type memory struct {
	// objects is what is reachable on the heap, heap what of it is not free for other objects only, and
	// stacks those of goroutines.
	objects, heap, stacks float64
	goroutines            float64
}

func liveMemory(ctx context.Context, direct *sessions) (*memory, error) {
	client := direct.client.Discovery().RESTClient()
	if err := collectGarbage(ctx, client); err != nil {
		return nil, err
	}
	metrics, err := measure.Scrape(ctx, client)
	if err != nil {
		return nil, err
	}
	var m memory
	for name, value := range map[string]*float64{
		"go_memstats_alloc_bytes": &m.objects, "go_memstats_heap_inuse_bytes": &m.heap, "go_memstats_stack_inuse_bytes": &m.stacks, "go_goroutines": &m.goroutines,
	} {
		if *value, err = metrics.Gauge(name); err != nil {
			return nil, err
		}
	}
	return &m, nil
}

// collectGarbage of aranya. What is pooled survives the first collection, and stacks are halved once in each.
func collectGarbage(ctx context.Context, client rest.Interface) error {
	for range 2 {
		if _, err := client.Get().AbsPath("/debug/pprof/heap").Param("gc", "1").DoRaw(ctx); err != nil {
			return fmt.Errorf("collect the garbage of aranya: %w", err)
		}
	}
	return nil
}

// memoryFigures tells what aranya uses for each device above what it used when it was empty.
func memoryFigures(r *harness.Run, empty, full *memory, target *report.Target) {
	each := func(a, b float64) float64 { return (b - a) / float64(r.N) }
	r.Figure(report.Figure{Name: "memory of aranya per connected device", Target: target, Unit: "KiB",
		Value: each(empty.objects+empty.stacks, full.objects+full.stacks) / 1024,
		Note:  "objects on the heap and stacks, above its empty size; the EdgeDevice and the Node in all caches included"})
	for _, f := range []report.Figure{
		{Name: "of this, stacks", Value: each(empty.stacks, full.stacks) / 1024, Unit: "KiB", Note: fmt.Sprintf("%.1f goroutines", each(empty.goroutines, full.goroutines))},
		{Name: "heap in use and stacks per connected device", Value: each(empty.heap+empty.stacks, full.heap+full.stacks) / 1024, Unit: "KiB", Note: "with what lies free between objects"},
		{Name: "memory of aranya, empty", Value: (empty.objects + empty.stacks) / (1 << 20), Unit: "MiB"},
	} {
		r.Figure(f)
	}
}

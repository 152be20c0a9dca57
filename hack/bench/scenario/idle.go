package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/simulator/fakecri"
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
	// restSpan is how long nothing happens: all Leases are renewed in it, and every link has a heartbeat.
	restSpan, restSmokeSpan = time.Minute, time.Second
	// calmTime is how long what the deployment has left may take to end.
	calmTime = 10 * time.Second
)

func runIdle(ctx context.Context, r *harness.Run) error {
	direct, err := newSessions(r.Direct())
	if err != nil {
		return err
	}
	empty, err := liveMemory(ctx, direct)
	if err != nil {
		return err
	}
	withNodes, err := newDevices(ctx, r, r.N/2, false, fakecri.Options{PodIP: "10.0.0.2"})
	if err != nil {
		return err
	}
	defer func() { _ = withNodes.Close() }() // the devices go with their files, whatever they say
	without, err := newDevices(ctx, r, r.N-r.N/2, true, fakecri.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = without.Close() }()
	nodes, err := watchNodes(ctx, r, r.Series("Nodes that are Ready and schedulable", "Nodes", "1"))
	if err != nil {
		return err
	}
	for _, d := range []*devices{withNodes, without} {
		if err := d.deploy(ctx); err != nil {
			return err
		}
		if err := d.waitLinks(ctx); err != nil {
			return err
		}
	}
	if err := nodes.wait(ctx, len(withNodes.names), len(withNodes.names)); err != nil {
		return err
	}
	pause, calm := restSpan, calmTime
	if r.Smoke {
		pause, calm = restSmokeSpan, restSmokeSpan
	}
	if err := sleep(ctx, calm); err != nil {
		return err
	}
	if err := atRest(ctx, r, withNodes, without, pause); err != nil {
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
	r.Figure(report.Figure{Name: "memory of aranya per connected device", Value: float64(full-empty) / 1024 / float64(r.N), Unit: "KiB", Target: target,
		Note: "heap and stacks after a garbage collection, above its empty size; the EdgeDevice in all caches included"})
	return errors.Join(withNodes.deleteAll(ctx, nodes), without.deleteAll(ctx, nodes))
}

// atRest measures what happens while nothing happens.
func atRest(ctx context.Context, r *harness.Run, withNodes, without *devices, pause time.Duration) error {
	total := func() int64 {
		var sum int64
		for _, d := range []*devices{withNodes, without} {
			sent, received := d.Bytes()
			sum += sent + received
		}
		return sum
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
		{Name: "writes to Kubernetes' etcd per device with a Node", Value: float64(after.kube-before.kube) / seconds / float64(len(withNodes.names)), Unit: "1/s", Target: report.AtMost(0.05)},
		{Name: "writes to aranya's etcd per device", Value: float64(after.aranya-before.aranya) / seconds / float64(r.N), Unit: "1/s", Target: report.AtMost(0.001)},
		{Name: "CPU of aranya", Value: 100 * (after.usage[local.ServiceAranya].CPU - before.usage[local.ServiceAranya].CPU).Seconds() / seconds, Unit: "% of a core", Target: report.AtMost(10)},
		{Name: "bytes per device", Value: float64(bytes) / seconds / float64(r.N), Unit: "B/s", Target: report.AtMost(10)},
	} {
		f.Note = note
		r.Figure(f)
	}
	return nil
}

// leaveProfiles leaves beside the report what uses aranya's memory.
func leaveProfiles(ctx context.Context, r *harness.Run, direct *sessions) error {
	for _, name := range []string{"heap", "goroutine"} {
		data, err := direct.client.Discovery().RESTClient().Get().AbsPath("/debug/pprof/" + name).DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("profile of aranya: %w", err)
		}
		if err := r.Leave(name+".pb.gz", data); err != nil {
			return err
		}
	}
	return nil
}

// liveMemory is what aranya uses of its heap and for stacks after a garbage collection, in bytes.
func liveMemory(ctx context.Context, direct *sessions) (int64, error) {
	client := direct.client.Discovery().RESTClient()
	if _, err := client.Get().AbsPath("/debug/pprof/heap").Param("gc", "1").DoRaw(ctx); err != nil {
		return 0, fmt.Errorf("collect the garbage of aranya: %w", err)
	}
	metrics, err := measure.Scrape(ctx, client)
	if err != nil {
		return 0, err
	}
	return int64(metrics.Sum("go_memstats_heap_inuse_bytes", nil) + metrics.Sum("go_memstats_stack_inuse_bytes", nil)), nil
}

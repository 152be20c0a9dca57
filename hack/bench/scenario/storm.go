package scenario

import (
	"context"
	"fmt"
	"time"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

var storm = harness.Scenario{
	Name: "storm",
	Doc: "all links of N devices, half of them with a Node, cut at once, until all are back; the same by a restart of aranya, and of the broker where there " +
		"is one: time, writes, CPU",
	N:       1000,
	SmokeN:  20,
	Cluster: oneDevice,
	Run:     runStorm,
}

func runStorm(ctx context.Context, r *harness.Run) error {
	d, nodes, err := startDevices(ctx, r, r.N, r.N/2)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // the devices go with their files, whatever they say
	if err := d.storms(ctx, nodes); err != nil {
		return err
	}
	return d.deleteAll(ctx, nodes)
}

// large is for numbers of devices that take long to deploy.
var large = harness.Scenario{
	Name:    "large",
	Doc:     "idle, and then storm with the same devices",
	N:       10000,
	SmokeN:  20,
	Cluster: oneDevice,
	Run: func(ctx context.Context, r *harness.Run) error {
		d, nodes, err := devicesAtRest(ctx, r)
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }() // the devices go with their files, whatever they say
		if err := d.storms(ctx, nodes); err != nil || !r.Smoke {
			return err
		}
		return d.deleteAll(ctx, nodes)
	},
}

// storms lets all that can happen to all links happen.
func (d *devices) storms(ctx context.Context, nodes *nodeWatch) error {
	if err := d.weather(ctx, nodes, "after all links were cut", d.Break); err != nil {
		return err
	}
	if err := d.weather(ctx, nodes, "after a restart of aranya", d.restart(local.ServiceAranya)); err != nil {
		return err
	}
	if d.r.Link == local.LinkMQTT {
		return d.weather(ctx, nodes, "after a restart of the broker", d.restart(local.ServiceBroker))
	}
	return nil
}

// restart stops a service in order and starts it anew.
func (d *devices) restart(service string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := d.r.Cluster.Cloud().Stop(ctx, service); err != nil {
			return err
		}
		return d.r.Cluster.Cloud().Resume(ctx, service)
	}
}

// aftermath is how long to look for late effects: a little more than controller-manager's
// node-monitor-grace-period.
const aftermath = 55 * time.Second

// weather lets something happen to all links, and measures until all devices are back.
func (d *devices) weather(ctx context.Context, nodes *nodeWatch, what string, strike func(context.Context) error) error {
	r := d.r
	if err := sleep(ctx, restTime); err != nil {
		return err
	}
	stop, err := r.Watch(ctx, local.ServiceAPIServer, local.ServiceEtcd)
	if err != nil {
		return err
	}
	defer stop()
	before, err := startCosts(ctx, r)
	if err != nil {
		return err
	}
	writes, replaced := nodes.history()
	begin := time.Now()
	if err := strike(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var pid int // of another process, maybe, that is about to start
	if err := poll(ctx, func(ctx context.Context) (err error) {
		pid, err = r.PID(ctx, local.ServiceAranya)
		return err
	}); err != nil {
		return err
	}
	memory, cpu := r.Series("Memory", "aranya "+what, "MiB"), r.Series("CPU", "aranya "+what, "cores")
	watchCtx, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	go measure.Watch(watchCtx, pid, memory, cpu)
	if err := d.waitBack(ctx, begin); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	links := time.Since(begin)
	if err := nodes.wait(ctx, d.withNodes, d.withNodes); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	took := time.Since(begin)
	// What is known to be away is told late: by aranya, or by controller-manager when the Leases run out.
	after := aftermath
	if r.Smoke {
		after = restSmokeSpan
	}
	if err := sleep(ctx, after); err != nil {
		return err
	}
	if err := nodes.wait(ctx, d.withNodes, d.withNodes); err != nil {
		return fmt.Errorf("%s, a while later: %w", what, err)
	}
	now, err := startCosts(ctx, r)
	if err != nil {
		return err
	}
	writesNow, replacedNow := nodes.history()
	r.Log("%s: all links in %s, all Nodes in %s", what, links.Round(time.Millisecond), took.Round(time.Millisecond))
	for _, f := range []report.Figure{
		{Name: "all links back", Value: links.Seconds(), Unit: "s", Target: report.AtMost(60)},
		{Name: "all Nodes usable again", Value: took.Seconds(), Unit: "s", Target: report.AtMost(60)},
		{Name: "changes of a Node", Value: float64(writesNow-writes) / float64(d.withNodes), Unit: "1", Target: report.AtMost(1), Note: "by aranya and controller-manager"},
		{Name: "Nodes replaced", Value: float64(replacedNow - replaced), Unit: "1", Target: report.AtMost(0)},
		{Name: "writes to Kubernetes' etcd per Node and second", Value: float64(now.kube-before.kube) / float64(d.withNodes) / now.at.Sub(before.at).Seconds(), Unit: "1/s", Note: "renewals of Leases included"},
		{Name: "writes to aranya's etcd per device", Value: float64(now.aranya-before.aranya) / float64(r.N), Unit: "1"},
		{Name: "peak memory of aranya", Value: memory.Max(), Unit: "MiB", Note: "RSS"},
		{Name: "peak CPU of aranya", Value: cpu.Max(), Unit: "cores", Note: "in half a second"},
	} {
		f.Name += " " + what
		r.Figure(f)
	}
	return nil
}

// waitBack waits until every device has a link that is younger than begin.
func (d *devices) waitBack(ctx context.Context, begin time.Time) error {
	return poll(ctx, func(context.Context) error {
		if n := d.LinksSince(begin); n < len(d.names) {
			return fmt.Errorf("%d of %d devices are back", n, len(d.names))
		}
		return nil
	})
}

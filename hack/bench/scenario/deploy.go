package scenario

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/simulator/fakecri"
)

// oneDevice is a cluster for simulated devices: its one real device gives the gateway's address an
// interface, and shows that the others leave it in peace.
var oneDevice = harness.Cluster{Devices: 1, Runtime: local.RuntimeProcess}

var deploy = harness.Scenario{
	Name: "deploy",
	Doc: "N EdgeDevices applied until all Nodes are Ready and schedulable, with their agents enrolled and connected by mutual TLS; " +
		"then deleted until the last Node, Lease and EdgeDevice is gone",
	N:       1000,
	SmokeN:  20,
	Cluster: oneDevice,
	Run:     runDeploy,
}

func runDeploy(ctx context.Context, r *harness.Run) error {
	freed, err := leftToControllerManager(ctx, r, min(r.N, freedNodes))
	if err != nil {
		return err
	}
	before, err := measureCeiling(ctx, r, r.N)
	if err != nil {
		return err
	}
	stopWatch, err := r.Watch(ctx, local.ServiceAranya, local.ServiceAPIServer, local.ServiceEtcd, local.ServiceControllerManager)
	if err != nil {
		return err
	}
	defer stopWatch()
	d, err := newDevices(ctx, r, r.N, r.N, fakecri.Options{PodIP: "10.0.0.2"})
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // the devices go with their files, whatever they say
	nodes, err := watchNodes(ctx, r, r.Series("Nodes that are Ready and schedulable", "Nodes", "1"))
	if err != nil {
		return err
	}

	if err := waitQuiet(ctx, r); err != nil {
		return err
	}
	rest, err := r.Onlooker(ctx, "at rest")
	if err != nil {
		return err
	}
	if err := sleep(ctx, restTime); err != nil {
		rest.Stop()
		return err
	}
	rest.Stop()
	costs, err := startCosts(ctx, r)
	if err != nil {
		return err
	}
	took, deployed, err := timed(ctx, r, "deploy", func() error {
		if err := d.deploy(ctx); err != nil {
			return err
		}
		return nodes.wait(ctx, r.N, r.N)
	})
	if err != nil {
		return err
	}
	if err := costs.figures(ctx, r, "deployed"); err != nil {
		return err
	}
	if costs, err = startCosts(ctx, r); err != nil {
		return err
	}
	gone, deleted, err := timed(ctx, r, "delete", func() error { return d.deleteAll(ctx, nodes) })
	if err != nil {
		return err
	}
	if err := costs.figures(ctx, r, "deleted"); err != nil {
		return err
	}
	after, err := measureCeiling(ctx, r, r.N)
	if err != nil {
		return err
	}
	limit := mean(before, after)
	machine(r, limit)
	rates(r, harness.Rate(r.N, took), harness.Rate(r.N, gone), freed, &limit)
	r.Latency("onlooker's write at rest", &rest.Writes, nil, report.AtMost(100))
	r.Latency("onlooker's write during deploy", &deployed.Writes, nil, report.AtMost(1000))
	r.Latency("onlooker's write during delete", &deleted.Writes, nil, report.AtMost(1000))
	r.Figure(report.Figure{Name: "onlooker's calls that failed", Value: float64(rest.Failed + deployed.Failed + deleted.Failed), Unit: "1", Target: report.AtMost(0)})
	return nil
}

// rates are the figures of how fast devices were deployed and deleted, in devices per second.
func rates(r *harness.Run, deployed, deleted, freed float64, limit *Ceiling) {
	for _, f := range []report.Figure{
		{Name: "deployed", Value: deployed, Target: report.AtLeast(max(100, 0.6*freed)), Ceiling: &freed,
			Note: "the target is 60 % of the ceiling, bare Nodes that controller-manager frees of their taint, and 100/s"},
		{Name: "deployed, beside all that can be written", Value: deployed, Target: report.AtLeast(0.6 * limit.Ready), Ceiling: &limit.Ready,
			Note: "an aim of our own: 60 % of bare Nodes whose creators take the taint off"},
		{Name: "deleted", Value: deleted, Target: report.AtLeast(max(100, 0.6*limit.Gone)), Ceiling: &limit.Gone,
			Note: "the target is 60 % of the ceiling, and 100/s"},
	} {
		f.Unit = "1/s"
		r.Figure(f)
	}
}

// freedNodes is how many bare Nodes are left to controller-manager at most, because it takes long. It frees the first
// ones faster, so that this ceiling is rather too high.
const freedNodes = 300

// lastPeriod is how often to look for the last that is left of what was deleted, some hundredths of a second after
// the last Node has gone.
const lastPeriod = 20 * time.Millisecond

// restTime is how long somebody looks on before anything happens.
const restTime = 3 * time.Second

// timed takes the time of f while an onlooker looks on.
func timed(ctx context.Context, r *harness.Run, what string, f func() error) (time.Duration, *measure.Onlooker, error) {
	onlooker, err := r.Onlooker(ctx, what)
	if err != nil {
		return 0, nil, err
	}
	defer onlooker.Stop()
	begin := time.Now()
	if err := f(); err != nil {
		return 0, nil, fmt.Errorf("%s: %w", what, err)
	}
	took := time.Since(begin)
	r.Log("%s: %d devices in %s", what, r.N, took.Round(time.Millisecond))
	return took, onlooker, nil
}

// deleteAll deletes the EdgeDevices and waits until nothing is left of them.
func (d *devices) deleteAll(ctx context.Context, nodes *nodeWatch) error {
	client := d.r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace)
	if _, err := harness.Parallel(ctx, len(d.names), harness.Workers, func(ctx context.Context, i int) error {
		return client.Delete(ctx, d.names[i], metav1.DeleteOptions{})
	}); err != nil {
		return err
	}
	if err := nodes.wait(ctx, 0, 0); err != nil {
		return err
	}
	names := sets.New(d.names...)
	return pollEach(ctx, lastPeriod, func(ctx context.Context) error {
		leases, err := d.r.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		list, err := client.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		left := 0
		for i := range leases.Items {
			if names.Has(leases.Items[i].Name) {
				left++
			}
		}
		for i := range list.Items {
			if names.Has(list.Items[i].Name) {
				left++
			}
		}
		if left > 0 {
			return fmt.Errorf("%d Leases and EdgeDevices are left", left)
		}
		return nil
	})
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

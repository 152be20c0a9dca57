package scenario

import (
	"context"
	"fmt"
	"os"
	"time"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

// costs are what each program has used, and how much was written, at one moment.
type costs struct {
	at           time.Time
	usage        map[string]measure.Usage
	kube, aranya int64 // revisions of etcd
}

// simulator is this program, of which the simulated devices are part.
const simulator = "simulator and load"

func startCosts(ctx context.Context, r *harness.Run) (*costs, error) {
	c := &costs{at: time.Now(), usage: map[string]measure.Usage{}}
	pids := map[string]int{simulator: os.Getpid()}
	for _, service := range []string{local.ServiceAranya, local.ServiceAPIServer, local.ServiceEtcd, local.ServiceControllerManager} {
		pid, err := r.PID(ctx, service)
		if err != nil {
			return nil, err
		}
		pids[service] = pid
	}
	for name, pid := range pids {
		usage, err := measure.Process(pid)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.usage[name] = usage
	}
	var err error
	if c.kube, err = measureKube(ctx, r); err != nil {
		return nil, err
	}
	c.aranya, err = measure.Revision(ctx, r.Metadata, harness.EdgeDevices)
	return c, err
}

// figures tells what was used per device since the start.
func (c *costs) figures(ctx context.Context, r *harness.Run, what string) error {
	now, err := startCosts(ctx, r)
	if err != nil {
		return err
	}
	n := float64(r.N)
	var all time.Duration
	perDevice := func(of string, used time.Duration) {
		r.Figure(report.Figure{Name: "CPU of " + of + " per device " + what, Unit: "ms", Value: float64(used.Microseconds()) / 1000 / n})
	}
	for _, name := range []string{local.ServiceAranya, local.ServiceAPIServer, local.ServiceEtcd, local.ServiceControllerManager, simulator} {
		used := now.usage[name].CPU - c.usage[name].CPU
		perDevice(name, used)
		all += used
	}
	perDevice("all these", all)
	r.Figure(report.Figure{Name: "writes to Kubernetes' etcd per device " + what, Value: float64(now.kube-c.kube) / n, Unit: "1"})
	r.Figure(report.Figure{Name: "writes to aranya's etcd per device " + what, Value: float64(now.aranya-c.aranya) / n, Unit: "1"})
	return nil
}

// measureKube is the revision of Kubernetes' etcd.
func measureKube(ctx context.Context, r *harness.Run) (int64, error) {
	return measure.Revision(ctx, r.Metadata, harness.ConfigMaps)
}

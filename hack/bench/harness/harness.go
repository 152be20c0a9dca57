package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/containerd"
)

// Options say where everything is.
type Options struct {
	// Bin holds the programs and Source is the root of the source tree, as in local.Options.
	Bin, Source string
	// Out receives the progress and the tables.
	Out io.Writer
	// Reports is where scenarios leave what explains their figures. Created if missing.
	Reports string
	// Command is how the user would run a scenario again, up to its name.
	Command string
}

// Harness runs scenarios one after the other. Each has a cluster of its own, but for a smoke run, in
// which those that need the same share one.
type Harness struct {
	options Options
	cluster *local.Cluster
	dir     string
	shape   shape
}

// shape is what makes a cluster fit for a scenario.
type shape struct {
	Cluster
	link, controllerManager string
}

// New returns a Harness; Close must be called.
func New(o Options) *Harness { return &Harness{options: o} }

// Run runs one scenario. The result is worth reading even if there is an error, which it then holds.
func (h *Harness) Run(ctx context.Context, s *Scenario, p Params) (report.Result, error) {
	if err := p.validate(); err != nil {
		return report.Result{}, err
	}
	if p.N == 0 {
		p.N = s.N
		if p.Smoke {
			p.N = s.SmokeN
		}
	}
	_, _ = fmt.Fprintf(h.options.Out, "\n=== %s: %s\n", s.Name, s.Doc)
	if why := missing(s); p.Smoke && why != nil {
		_, _ = fmt.Fprintf(h.options.Out, "Left out: %v\n", why)
		return report.Result{Scenario: s.Name, Doc: s.Doc, Error: "left out: " + why.Error()}, nil
	}
	if err := h.ensure(ctx, s, p); err != nil {
		return report.Result{Scenario: s.Name, Doc: s.Doc, Error: err.Error()}, err
	}
	r, err := newRun(s, p, h.cluster, h.options.Out)
	if err != nil {
		return report.Result{}, err
	}
	r.reports = h.options.Reports
	begin := time.Now()
	err = s.Run(ctx, r)
	result := r.finish()
	result.Duration = time.Since(begin)
	result.Command = fmt.Sprintf("%s SCENARIO=%s N=%d LINK=%s CM=%s", h.options.Command, s.Name, p.N, p.Link, p.ControllerManager)
	if err != nil {
		result.Error = err.Error()
	}
	return result, errors.Join(err, result.Print(h.options.Out))
}

// missing says what this machine or user lacks for a scenario, nil if nothing.
func missing(s *Scenario) error {
	if s.Cluster.Runtime == local.RuntimeContainerd {
		return containerd.Check()
	}
	return nil
}

// ensure sees to it that the cluster fits.
func (h *Harness) ensure(ctx context.Context, s *Scenario, p Params) error {
	want := shape{s.Cluster, p.Link, p.ControllerManager}
	if h.cluster != nil && p.Smoke && h.shape == want {
		return nil
	}
	if err := h.Close(ctx, true); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aranya-bench-")
	if err != nil {
		return err
	}
	o := local.Options{
		Dir: dir, Bin: h.options.Bin, Source: h.options.Source, Out: h.options.Out, Link: p.Link,
		KubernetesOnly: s.Cluster.KubernetesOnly, Devices: s.Cluster.Devices, Runtime: s.Cluster.Runtime,
	}
	if s.Cluster.KubernetesOnly {
		o.Link = local.LinkGRPC
	} else if s.Cluster.Link != "" {
		o.Link = s.Cluster.Link
	}
	if p.ControllerManager == ControllerManagerFast {
		o.ExtraArgs = map[string][]string{local.ServiceControllerManager: {"--kube-api-qps=5000", "--kube-api-burst=5000"}}
	}
	if o.Runtime == local.RuntimeContainerd {
		image, err := containerd.Busybox(local.SampleImage)
		if err != nil {
			return err
		}
		o.Images = append(o.Images, image)
	}
	h.dir, h.shape = dir, want
	h.cluster, err = local.Up(ctx, o)
	return err
}

// Close brings the cluster down. After a failure its files stay for whoever looks for the cause.
func (h *Harness) Close(ctx context.Context, succeeded bool) error {
	if h.dir == "" {
		return nil
	}
	dir := h.dir
	h.cluster, h.dir = nil, ""
	err := local.Down(context.WithoutCancel(ctx), dir, succeeded, io.Discard)
	if !succeeded {
		_, _ = fmt.Fprintf(h.options.Out, "The logs of the cluster are in %s/logs.\n", dir)
	} else if err == nil {
		err = os.RemoveAll(dir)
	}
	return err
}

// Machine describes the machine, for the report.
func Machine() string {
	model := "unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s", runtime.NumCPU(), model)
}

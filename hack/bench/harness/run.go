package harness

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
)

// EdgeDevices and ConfigMaps are resources whose etcd is that of aranya and of the main cluster.
var (
	EdgeDevices = v1alpha1.SchemeGroupVersion.WithResource("edgedevices")
	ConfigMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
)

// Run is what a scenario works with. It may be used concurrently.
type Run struct {
	Params
	Cluster *local.Cluster
	// Config is the administrator's, without a limit of requests; clients made of it share connections.
	Config   *rest.Config
	Kube     kubernetes.Interface
	Edge     versioned.Interface
	Metadata metadata.Interface

	out     io.Writer
	reports string
	mu      sync.Mutex
	result  report.Result
	series  []*measure.Series
}

func newRun(s *Scenario, p Params, cluster *local.Cluster, out io.Writer) (*Run, error) {
	r := &Run{Params: p, Cluster: cluster, out: out}
	r.result = report.Result{Scenario: s.Name, Doc: s.Doc, Params: report.Params{N: p.N, Link: p.Link, ControllerManager: p.ControllerManager}}
	config, err := cluster.RESTConfig()
	if err != nil {
		return nil, err
	}
	config.QPS = -1                              // no limit
	config.ContentType = runtime.ContentTypeJSON // as kubectl and what else applies manifests
	r.Config = config
	if r.Kube, err = r.NewKube(); err != nil {
		return nil, err
	}
	if r.Edge, err = versioned.NewForConfig(config); err != nil {
		return nil, err
	}
	r.Metadata, err = metadata.NewForConfig(metadata.ConfigFor(config))
	return r, err
}

// NewKube returns a client that speaks protobuf over a connection of its own.
func (r *Run) NewKube() (kubernetes.Interface, error) {
	config := rest.CopyConfig(r.Config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.Dial = dialer() // a configuration with a dialer of its own does not share connections
	return kubernetes.NewForConfig(config)
}

// Figure adds a result.
func (r *Run) Figure(f report.Figure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Figures = append(r.result.Figures, f)
}

// Latency adds the median and the 99th percentile of samples, in milliseconds. The targets may be nil.
func (r *Run) Latency(name string, s *measure.Samples, p50, p99 *report.Target) {
	for _, q := range []struct {
		name   string
		q      float64
		target *report.Target
	}{{"p50", 0.5, p50}, {"p99", 0.99, p99}} {
		r.Figure(report.Figure{
			Name: name + " " + q.name, Value: float64(s.Quantile(q.q).Microseconds()) / 1000, Unit: "ms", Target: q.target,
			Note: fmt.Sprintf("%d samples", s.Len()),
		})
	}
}

// Leave leaves a file that explains the figures beside the report.
func (r *Run) Leave(name string, data []byte) error {
	if r.reports == "" {
		return nil
	}
	if err := os.MkdirAll(r.reports, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.reports, r.result.Scenario+"-"+name), data, 0o644)
}

// Series adds a series to the report's plots.
func (r *Run) Series(plot, name, unit string) *measure.Series {
	s := measure.NewSeries(plot, name, unit)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.series = append(r.series, s)
	return s
}

// Log tells the user how far a scenario is.
func (r *Run) Log(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.out, "  "+format+"\n", args...)
}

// Watch follows the memory and CPU of programs of the cloud side (see local.ServiceAranya and others)
// until stop is called.
func (r *Run) Watch(ctx context.Context, services ...string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	stop = func() {
		cancel()
		group.Wait()
	}
	for _, service := range services {
		pid, err := r.PID(ctx, service)
		if err != nil {
			stop()
			return nil, err
		}
		memory, cpu := r.Series("Memory", service, "MiB"), r.Series("CPU", service, "cores")
		group.Go(func() { measure.Watch(ctx, pid, memory, cpu) })
	}
	return stop, nil
}

// PID is the process of a program of the cloud side.
func (r *Run) PID(ctx context.Context, service string) (int, error) {
	return r.Cluster.PID(ctx, local.Cloud, service)
}

// Direct returns the administrator's configuration for aranya itself, past kube-apiserver.
func (r *Run) Direct() *rest.Config { return r.Cluster.Direct(r.Config) }

// Onlooker starts somebody who uses kube-apiserver meanwhile. The name tells its plot's line from
// others.
func (r *Run) Onlooker(ctx context.Context, name string) (*measure.Onlooker, error) {
	return measure.StartOnlooker(ctx, r.Kube, r.Series("Latency of an onlooker's writes", name, "ms"))
}

// finish returns the result.
func (r *Run) finish() report.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.series {
		r.result.Series = append(r.result.Series, report.Series{Plot: s.Plot, Name: s.Name, Unit: s.Unit, Points: s.Points()})
	}
	return r.result
}

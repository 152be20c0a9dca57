// Package suite gives end-to-end tests a cluster of real programs to work on: one for all tests of a
// package, brought up by Main and taken down when they are done. It holds what tests of different
// subjects share; what is expected of aranya is in the tests themselves.
package suite

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/test/framework/containerd"
)

// Namespace is where the EdgeDevices are.
const Namespace = local.Namespace

// BusyboxImage is in the container runtime of each device, with all applets.
const BusyboxImage = "test.local/busybox:1"

// linkVariable names the link over which the tests of a run reach devices: grpc, websocket or mqtt.
const linkVariable = "ARANYA_LINK"

// Method is spec.connectivity.method of the devices of this run.
func (e *Env) Method() string {
	if e.Cluster.State().Link == local.LinkMQTT {
		return "mqtt"
	}
	return "grpc"
}

// Config says what cluster a package needs.
type Config struct {
	// Runtime of the devices: local.RuntimeProcess or local.RuntimeContainerd.
	Runtime string
	// Etcd of aranya: local.EtcdEmbedded or local.EtcdShared.
	Etcd string
	// Devices is how many there are at first.
	Devices int
	// NeedsRoot has the tests skipped for others.
	NeedsRoot bool
}

// Env is what tests work with.
type Env struct {
	Cluster *local.Cluster
	// Config is the administrator's.
	Config  *rest.Config
	Kube    *kubernetes.Clientset
	Dynamic *dynamic.DynamicClient
}

var (
	env        *Env
	skipReason string
	names      atomic.Int64
)

// Main is called by TestMain: it brings the cluster up, runs the tests, takes the cluster down and
// exits. The cluster of a process that could not is taken down by the next one. Tests are skipped unless make runs
// them, or if they cannot run here.
func Main(m *testing.M, config Config) {
	os.Exit(run(m, config))
}

func run(m *testing.M, config Config) (code int) {
	switch {
	case os.Getenv("ARANYA_E2E") == "":
		skipReason = "end-to-end tests need programs that make builds: run make test-e2e"
		return m.Run()
	case config.NeedsRoot && os.Geteuid() != 0:
		skipReason = "only root can run devices with containers and networks of their own"
		return m.Run()
	}
	if err := takeDownLeftovers(context.Background(), os.Stdout); err != nil {
		return fail(err)
	}
	claim, err := newClaim()
	if err != nil {
		return fail(err)
	}
	dir := claim.dir
	options, err := config.options(dir)
	if err != nil {
		return fail(err)
	}
	fmt.Printf("Bringing a cluster up in %s.\n", dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cluster, err := local.Up(ctx, options)
	stop()
	if err != nil {
		return fail(err)
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted // nothing of the cluster may stay
		_ = claim.takeDown(context.Background(), false, os.Stdout)
		os.Exit(130)
	}()
	if env, err = New(cluster); err == nil {
		code = m.Run()
	} else {
		code = fail(err)
	}
	if err := claim.takeDown(context.Background(), code == 0, os.Stdout); err != nil {
		code = fail(err)
	}
	if code != 0 {
		fmt.Printf("The logs of the cluster are in %s/logs and %s/devices/*/logs.\n", dir, dir)
	}
	return code
}

func (c *Config) options(dir string) (local.Options, error) {
	o := local.Options{
		Dir: dir, Bin: os.Getenv("ARANYA_BIN"), Source: os.Getenv("ARANYA_SOURCE"), Devices: c.Devices,
		Runtime: c.Runtime, Etcd: c.Etcd, Link: os.Getenv(linkVariable), Out: os.Stdout,
	}
	if o.Link == local.LinkMQTT {
		// So soon that it happens in the tests all the time, and to those that do not know of it.
		o.ExtraArgs = map[string][]string{local.ServiceAranya: {"--mqtt-park-after=500ms"}}
	}
	if c.Runtime == local.RuntimeContainerd {
		image, err := containerd.Busybox(BusyboxImage)
		if err != nil {
			return o, err
		}
		o.Images = []containerd.Image{image}
	}
	return o, nil
}

// New returns what tests need to work with a cluster of their own.
func New(cluster *local.Cluster) (*Env, error) {
	config, err := cluster.RESTConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 200, 400
	e := &Env{Cluster: cluster, Config: config}
	if e.Kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	e.Dynamic, err = dynamic.NewForConfig(config)
	return e, err
}

func fail(err error) int {
	fmt.Fprintf(os.Stderr, "FAIL: %v\n", err)
	return 1
}

// Get returns the cluster, or skips the test.
func Get(t testing.TB) *Env {
	t.Helper()
	if env == nil {
		t.Skip(skipReason)
	}
	return env
}

// Name returns a name that no other test of the package gets.
func Name(prefix string) string { return fmt.Sprintf("%s-%d", prefix, names.Add(1)) }

// OnOneLink leaves out, on all links but the first, what is the same over every link.
func OnOneLink(t testing.TB) {
	t.Helper()
	if link := os.Getenv(linkVariable); link != "" && link != local.LinkGRPC {
		t.Skip("it does not depend on the link, and is tested over grpc")
	}
}

// Eventually waits until check returns no error.
func Eventually(t testing.TB, timeout time.Duration, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	begin := time.Now()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, time.Since(begin).Round(time.Second), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Never checks that something stays so for a while.
func Never(t testing.TB, during time.Duration, what string, happened func(ctx context.Context) error) {
	t.Helper()
	for deadline := time.Now().Add(during); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err := happened(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// Device returns an EdgeDevice.
func (e *Env) Device(ctx context.Context, name string) (*v1alpha1.EdgeDevice, error) {
	obj, err := e.Dynamic.Resource(v1alpha1.SchemeGroupVersion.WithResource("edgedevices")).Namespace(Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	ed := &v1alpha1.EdgeDevice{}
	return ed, runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, ed)
}

package scenario

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

const (
	// loadWorkers is how many clients of each kind there are, and loadPause what each leaves between two
	// calls.
	loadWorkers, loadPause = 2, 50 * time.Millisecond
	// callTimeout is when a client gives a call up.
	callTimeout = 10 * time.Second
	// openSessions are open when aranya is replaced.
	openSessions = 10
)

var replace = harness.Scenario{
	Name: "replace",
	Doc: "aranya stopped in order and started anew under load, N devices with Nodes connected: until all are back, calls that fail " +
		"meanwhile, sessions, writes",
	N:       1000,
	SmokeN:  20,
	Cluster: oneDevice,
	Run:     runReplace,
}

func runReplace(ctx context.Context, r *harness.Run) error {
	d, nodes, err := startDevices(ctx, r, r.N, r.N)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // the devices go with their files, whatever they say
	through, err := newSessions(r.Config)
	if err != nil {
		return err
	}
	load := newLoad(d, through)
	ended := openAll(ctx, through)
	stop := load.start(ctx)
	defer stop()
	if err := d.weather(ctx, nodes, "after aranya was replaced", d.restart(local.ServiceAranya)); err != nil {
		return err
	}
	if err := poll(ctx, func(context.Context) error { return load.healthy() }); err != nil {
		return err
	}
	stop()
	for _, k := range load.kinds {
		k.figures(r)
	}
	r.Figure(report.Figure{Name: "open sessions that ended", Value: float64(len(ended)), Unit: "1", Note: fmt.Sprintf("of %d; there is one replica, and a session lives on it", openSessions)})
	return d.deleteAll(ctx, nodes)
}

// openAll opens sessions that last until they are cut; each that ends is told.
func openAll(ctx context.Context, through *sessions) <-chan error {
	ended := make(chan error, openSessions)
	for range openSessions {
		go func() {
			ended <- through.run(ctx, realDevice, nil, io.Discard, "sleep", "1000000")
		}()
	}
	return ended
}

// realDevice is the one device of the cluster that is not simulated.
const realDevice = "device-1"

// load is what users do all the time.
type load struct {
	kinds []*loadKind
}

// loadKind is one kind of calls, and how they went.
type loadKind struct {
	name string
	call func(ctx context.Context, i int) error

	mu            sync.Mutex
	calls, failed int
	succeeded     time.Time // the last one
	longest       time.Duration
	failing       error // the last failure
}

func newLoad(d *devices, through *sessions) *load {
	edge := d.r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace)
	name := func(i int) string { return d.names[i%len(d.names)] }
	return &load{kinds: []*loadKind{
		{name: "exec of true on a device", call: func(ctx context.Context, _ int) error {
			return through.run(ctx, realDevice, nil, io.Discard, "true")
		}},
		{name: "GET of an EdgeDevice", call: func(ctx context.Context, i int) error {
			_, err := edge.Get(ctx, name(i), metav1.GetOptions{})
			return err
		}},
		{name: "PATCH of an EdgeDevice", call: func(ctx context.Context, i int) error {
			_, err := edge.Patch(ctx, name(i), types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"round":"%d"}}}`, i), metav1.PatchOptions{})
			return err
		}},
		{name: "GET of a Node", call: func(ctx context.Context, i int) error {
			_, err := d.r.Kube.CoreV1().Nodes().Get(ctx, name(i), metav1.GetOptions{})
			return err
		}},
	}}
}

// start makes the calls until stop is called, which may be done again.
func (l *load) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, k := range l.kinds {
		k.succeeded = time.Now()
		for worker := range loadWorkers {
			running.Go(func() { k.run(ctx, worker) })
		}
	}
	return func() {
		cancel()
		running.Wait()
	}
}

func (k *loadKind) run(ctx context.Context, worker int) {
	for i := worker; sleep(ctx, loadPause) == nil; i += loadWorkers {
		callCtx, cancel := context.WithTimeout(ctx, callTimeout)
		err := k.call(callCtx, i)
		cancel()
		if ctx.Err() == nil {
			k.note(err, time.Now())
		}
	}
}

// note counts a call.
func (k *loadKind) note(err error, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if err != nil {
		k.failed++
		k.failing = err
		return
	}
	k.longest = max(k.longest, now.Sub(k.succeeded))
	k.succeeded, k.failing = now, nil
}

// healthy says whether the last call of each kind succeeded.
func (l *load) healthy() error {
	for _, k := range l.kinds {
		k.mu.Lock()
		err := k.failing
		k.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%s fails still: %w", k.name, err)
		}
	}
	return nil
}

// figures tells how the calls went.
func (k *loadKind) figures(r *harness.Run) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range []report.Figure{
		{Name: "failed calls", Value: float64(k.failed), Unit: "1", Note: fmt.Sprintf("of %d, by %d clients that try again after %s", k.calls, loadWorkers, loadPause)},
		{Name: "longest time without success", Value: k.longest.Seconds(), Unit: "s"},
	} {
		f.Name = k.name + ": " + f.Name
		r.Figure(f)
	}
}

package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/simulator/fakecri"
	"arhat.dev/aranya/hack/simulator/fleet"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/edge/agent/config"
)

// simulatedPrefix begins the names of simulated devices.
const simulatedPrefix = "sim-"

// memoryDir is a file system in memory.
const memoryDir = "/dev/shm"

// devices are the simulated devices of a scenario.
type devices struct {
	*fleet.Fleet
	r     *harness.Run
	names []string
	// withNodes is how many of them have a Node: the first ones.
	withNodes int
}

// newDevices prepares n devices, some of them with a Node. Close must be called.
func newDevices(ctx context.Context, r *harness.Run, n, withNodes int, runtime fakecri.Options) (*devices, error) {
	dir, err := os.MkdirTemp(memoryDir, "aranya-bench-")
	if err != nil {
		return nil, err
	}
	d := &devices{r: r, withNodes: withNodes}
	prefix := simulatedPrefix + strings.ToLower(filepath.Base(dir)[len("aranya-bench-"):])
	configurations := map[string]*config.Configuration{}
	for i := range n {
		name := fmt.Sprintf("%s-%d", prefix, i)
		d.names = append(d.names, name)
		if configurations[name], err = linkConfiguration(ctx, r, name, filepath.Join(dir, "links")); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	if err := r.Cluster.AdmitGuests(ctx, d.names...); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d.Fleet, err = fleet.New(fleet.Options{
		Dir: dir, Runtime: runtime,
		Configure: func(name string) *config.Configuration {
			c := *configurations[name]
			return &c
		},
	})
	return d, err
}

// linkConfiguration is what a device must be told to reach aranya.
func linkConfiguration(ctx context.Context, r *harness.Run, name, dir string) (*config.Configuration, error) {
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fields, err := r.Cluster.LinkConfig(ctx, name, dir)
	if err != nil {
		return nil, err
	}
	fields["apiVersion"], fields["kind"] = config.APIVersion, config.Kind
	data, err := yaml.Marshal(fields)
	if err != nil {
		return nil, err
	}
	return config.Parse(data, name)
}

// create creates the EdgeDevice of a device.
func (d *devices) create(ctx context.Context, i int) error {
	data, err := json.Marshal(d.r.Cluster.Connectivity())
	if err != nil {
		return err
	}
	ed := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Name: d.names[i]}}
	if err := json.Unmarshal(data, &ed.Spec.Connectivity); err != nil {
		return err
	}
	ed.Spec.Node.Disabled = i >= d.withNodes
	_, err = d.r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace).Create(ctx, ed, metav1.CreateOptions{})
	return err
}

// enrol gets a token for a device and enrols it.
func (d *devices) enrol(ctx context.Context, name string) error {
	token, err := d.r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace).CreateToken(ctx, name, &v1alpha1.EnrollmentToken{}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("token of %s: %w", name, err)
	}
	return d.Enrol(ctx, name, token.Status.Token)
}

// deploy creates, enrols and starts all devices. They run until ctx ends or Close is called.
func (d *devices) deploy(ctx context.Context) error {
	_, err := harness.Parallel(ctx, len(d.names), harness.Workers, func(callCtx context.Context, i int) error {
		name := d.names[i]
		if err := d.create(callCtx, i); err != nil {
			return err
		}
		if err := d.enrol(callCtx, name); err != nil {
			return err
		}
		return d.Start(ctx, name)
	})
	return err
}

// startDevices brings n devices up, some of them with their Nodes. They must be closed, unless there is an error.
func startDevices(ctx context.Context, r *harness.Run, n, withNodes int) (*devices, *nodeWatch, error) {
	d, err := newDevices(ctx, r, n, withNodes, fakecri.Options{PodIP: "10.0.0.2"})
	if err != nil {
		return nil, nil, err
	}
	nodes, err := watchNodes(ctx, r, r.Series("Nodes that are Ready and schedulable", "Nodes", "1"))
	if err == nil {
		err = d.deploy(ctx)
	}
	if err == nil {
		err = d.waitLinks(ctx)
	}
	if err == nil {
		err = nodes.wait(ctx, withNodes, withNodes)
	}
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	return d, nodes, nil
}

// waitLinks waits until all devices are connected.
func (d *devices) waitLinks(ctx context.Context) error {
	return poll(ctx, func(context.Context) error {
		if links := d.Links(); links < len(d.names) {
			return fmt.Errorf("%d of %d devices are connected", links, len(d.names))
		}
		return nil
	})
}

// settleTimeout bounds the wait for anything that a scenario waits for.
const settleTimeout = 10 * time.Minute

// poll calls check until it gives no error.
func poll(ctx context.Context, check func(context.Context) error) error {
	return pollEach(ctx, pollPeriod, check)
}

func pollEach(ctx context.Context, period time.Duration, check func(context.Context) error) error {
	return local.Poll(ctx, settleTimeout, period, check)
}

// nodeWatch follows the Nodes of simulated devices.
type nodeWatch struct {
	ready *measure.Series

	mu       sync.Mutex
	usable   map[string]bool // Ready, and the scheduler may use them
	all      map[string]string
	replaced int // Nodes that came again under another UID
	writes   int // events about a Node after its creation
	changed  chan struct{}
}

// watchNodes starts to follow the Nodes of simulated devices, until ctx ends.
func watchNodes(ctx context.Context, r *harness.Run, ready *measure.Series) (*nodeWatch, error) {
	w := &nodeWatch{ready: ready, usable: map[string]bool{}, all: map[string]string{}, changed: make(chan struct{}, 1)}
	client, err := r.NewKube()
	if err != nil {
		return nil, err
	}
	informer := informers.NewSharedInformerFactory(client, 0).Core().V1().Nodes().Informer()
	if err := informer.SetTransform(keepState); err != nil {
		return nil, err
	}
	handle := func(obj any, created, deleted bool) {
		if n, ok := queue.Deleted(obj).(*corev1.Node); ok && strings.HasPrefix(n.Name, simulatedPrefix) {
			w.handle(n, created, deleted)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { handle(obj, true, false) },
		UpdateFunc: func(_, obj any) { handle(obj, false, false) },
		DeleteFunc: func(obj any) { handle(obj, false, true) },
	}); err != nil {
		return nil, err
	}
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil, errors.New("the watch of Nodes did not begin")
	}
	return w, nil
}

// keepState drops what nodeWatch does not look at.
func keepState(obj any) (any, error) {
	if n, ok := obj.(*corev1.Node); ok {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion},
			Spec:       corev1.NodeSpec{Taints: n.Spec.Taints},
			Status:     corev1.NodeStatus{Conditions: n.Status.Conditions},
		}, nil
	}
	return obj, nil
}

func (w *nodeWatch) handle(n *corev1.Node, created, deleted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if created && w.all[n.Name] != "" && w.all[n.Name] != string(n.UID) {
		w.replaced++
	}
	if !created && !deleted {
		w.writes++
	}
	if !created && !deleted && w.all[n.Name] != string(n.UID) {
		w.replaced++ // between two events
	}
	w.all[n.Name] = string(n.UID)
	delete(w.usable, n.Name)
	if deleted {
		delete(w.all, n.Name)
	} else if usable(n) {
		w.usable[n.Name] = true
	}
	w.ready.Add(float64(len(w.usable)))
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// usable says whether the scheduler may put pods on a Node: it is Ready and not tainted for being new,
// unreachable or the like.
func usable(n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			return false
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// counts returns how many Nodes there are, and how many of them are usable.
func (w *nodeWatch) counts() (all, usable int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all), len(w.usable)
}

// history returns how often Nodes were changed after their creation, and how many were replaced.
func (w *nodeWatch) history() (writes, replaced int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes, w.replaced
}

// wait waits until the numbers of Nodes and of usable Nodes are as wanted.
func (w *nodeWatch) wait(ctx context.Context, wantAll, wantUsable int) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		all, usable := w.counts()
		if all == wantAll && usable == wantUsable {
			return nil
		}
		select {
		case <-w.changed:
		case <-ctx.Done():
			return fmt.Errorf("there are %d Nodes, %d of them usable; wanted are %d and %d: %w", all, usable, wantAll, wantUsable, context.Cause(ctx))
		}
	}
}

// calm waits until no Node has changed for a time.
func (w *nodeWatch) calm(ctx context.Context, span time.Duration) error {
	last, _ := w.history()
	since := time.Now()
	for begin := since; time.Since(since) < span; {
		if time.Since(begin) > calmLimit {
			return fmt.Errorf("a Node still changes %s after the last device has come", calmLimit)
		}
		if err := sleep(ctx, pollPeriod); err != nil {
			return err
		}
		if now, _ := w.history(); now != last {
			last, since = now, time.Now()
		}
	}
	return nil
}

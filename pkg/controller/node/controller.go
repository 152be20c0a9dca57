package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/clip"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/queue"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

// workers is how many Nodes are worked on at the same time.
const workers = 16

// Config of the Controller.
type Config struct {
	Kube kubernetes.Interface
	// Leases renews Leases. A request should soon end if there is no answer. Its Update may change the Lease that it is
	// given. Defaults to Kube.
	Leases  coordinationclient.LeasesGetter
	Edge    versioned.Interface
	Nodes   cache.SharedIndexInformer
	Pods    cache.Indexer
	Devices cache.SharedIndexInformer
	Tracker *links.Tracker
	Events  *events.Recorder
	Clock   clock.WithTicker
	// Address and Port of the kubelet endpoint.
	Address string
	Port    int32
	// ReconnectGrace is how long after the start a device may take to come back until its Node is
	// Unknown.
	ReconnectGrace time.Duration
	// Changed is called when the Problem of a device has changed. It must be quick.
	Changed func(key types.NamespacedName)
}

// Controller keeps the Nodes and Leases. It is a links.Listener.
type Controller struct {
	config  Config
	written cache.MutationCache // of Nodes
	devices aranyalisters.EdgeDeviceLister
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]
	leases  *leases
	start   time.Time // devices cannot connect before Run
	census  census
	// emptyAtStart is set if there was no EdgeDevice when Run was called.
	emptyAtStart bool

	mu sync.Mutex
	// lost holds, for devices whose link was lost since the start, when and why.
	lost map[types.NamespacedName]loss
	// creating holds the EdgeDevices whose Nodes are being created.
	creating sets.Set[types.UID]
	// settled holds what the Nodes of connected devices are up to date with.
	settled map[types.NamespacedName]inputs
	// spent holds what devices have used of the pace of their Nodes.
	spent map[types.NamespacedName]queue.Spent
	// problems holds, for devices whose Nodes cannot be brought up to date, why.
	problems map[types.NamespacedName]Problem
}

// pace is how often the Node of one device is written because of what the device reports. What it reports faster than that
// waits for its turn, and only the last of it is written.
var pace = queue.Pace{Burst: 20, Every: time.Second}

// inputs are what a Node is brought up to date with while its device is connected. Most events of Nodes tell
// of aranya's own writes: as long as none of these is another, there is nothing to do.
type inputs struct {
	session    gateway.Session
	reported   *edgeapi.NodeStatus
	generation int64  // of the EdgeDevice
	version    string // of the Node
}

type loss struct {
	at     time.Time
	reason string
}

var (
	_ links.Listener        = &Controller{}
	_ links.MessageListener = &Controller{}
)

// New returns a Controller that does nothing until Run.
func New(config Config) (*Controller, error) {
	if config.Changed == nil {
		config.Changed = func(types.NamespacedName) {}
	}
	c := &Controller{
		config:  config,
		written: queue.Written(config.Nodes.GetIndexer()),
		devices: aranyalisters.NewEdgeDeviceLister(config.Devices.GetIndexer()),
		queue:   queue.New[types.NamespacedName]("nodes", config.Clock),
		leases:  newLeases(config.Kube, config.Leases, config.Clock),
		start:   config.Clock.Now(),
		lost:    map[types.NamespacedName]loss{}, creating: sets.New[types.UID](), settled: map[types.NamespacedName]inputs{},
		problems: map[types.NamespacedName]Problem{}, spent: map[types.NamespacedName]queue.Spent{},
		census: census{clock: config.Clock, unseen: map[string]time.Time{}},
	}
	_, nodeErr := config.Nodes.AddEventHandler(c.nodeHandler())
	_, deviceErr := config.Devices.AddEventHandler(c.deviceHandler())
	return c, errors.Join(nodeErr, deviceErr)
}

// Run works until ctx ends, and returns when all workers have. The informers must have synced.
func (c *Controller) Run(ctx context.Context) {
	c.start = c.config.Clock.Now()
	c.emptyAtStart = len(c.config.Devices.GetIndexer().ListKeys()) == 0
	var running sync.WaitGroup
	running.Go(func() { queue.Run(ctx, c.queue, workers, c.sync) })
	running.Go(func() { c.leases.run(ctx) })
	running.Wait()
}

// LinkUp implements links.Listener.
func (c *Controller) LinkUp(s gateway.Session) {
	c.mu.Lock()
	delete(c.lost, links.Key(s.Device()))
	c.mu.Unlock()
	c.queue.Add(links.Key(s.Device()))
}

// LinkDown implements links.Listener.
func (c *Controller) LinkDown(device gateway.Device, lost links.Loss) {
	c.mu.Lock()
	c.lost[links.Key(device)] = loss{at: lost.At, reason: clip.String(lost.Message(), maxText)}
	delete(c.settled, links.Key(device))
	c.mu.Unlock()
	c.queue.AddAfter(links.Key(device), c.config.Tracker.Patience(lost.At))
}

// Message implements links.MessageListener.
func (c *Controller) Message(s gateway.Session, msg *edgeapi.DeviceMessage) {
	if _, ok := msg.GetMessage().(*edgeapi.DeviceMessage_NodeStatus); ok {
		c.queue.Add(links.Key(s.Device()))
	}
}

// away says for how much longer a device that has no link may come back before it counts as away, and
// then why it has none.
func (c *Controller) away(key types.NamespacedName) (wait time.Duration, reason string) {
	if c.config.Tracker.Stopping() {
		return c.config.ReconnectGrace, "" // it is to go to the next aranya
	}
	c.mu.Lock()
	lost, ok := c.lost[key]
	c.mu.Unlock()
	if ok {
		return c.config.Tracker.Patience(lost.at), "The link to the device was lost: " + lost.reason
	}
	return c.config.ReconnectGrace - c.config.Clock.Since(c.start), "The device did not connect since aranya was started"
}

// sync brings the Node of a device up to date. EdgeDevices that are being deleted are left to package
// device, which may take its time if they are thousands.
func (c *Controller) sync(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	ed, err := c.devices.EdgeDevices(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return c.removeOrphan(ctx, key)
	}
	if err != nil {
		return 0, err
	}
	if ed.DeletionTimestamp != nil {
		return 0, c.leave(ed)
	}
	ctx = klog.NewContext(ctx, klog.LoggerWithValues(klog.FromContext(ctx), "edgeDevice", klog.KObj(ed)))
	again, err := c.update(ctx, ed, key)
	return c.tell(ctx, ed, again, err)
}

// update brings the Node of a device up to date that is not being deleted.
func (c *Controller) update(ctx context.Context, ed *aranya.EdgeDevice, key types.NamespacedName) (time.Duration, error) {
	n, err := c.get(ed.Name)
	if err != nil {
		return 0, err
	}
	session := c.config.Tracker.Session(key, ed.UID)
	switch {
	case ed.Spec.Node.Disabled:
		return c.retire(ctx, ed, n, session != nil)
	case n == nil:
		if session == nil {
			c.leases.stop(ed.Name, ed.UID) // somebody may have deleted the Node
			return 0, nil                  // nothing is known of the machine yet
		}
		if wait := c.census.awaited(ed.Name); wait > 0 {
			return wait, nil // the informer is about to tell
		}
		return 0, c.create(ctx, ed, session)
	case !Owned(n, ed):
		return 0, c.replaceFormer(ctx, ed, n)
	}
	var again time.Duration
	if session != nil {
		again, err = c.online(ctx, ed, n, session)
	} else {
		again, err = c.offline(ctx, ed, n, key)
	}
	if err != nil {
		return 0, err
	}
	return again, c.ensureFinalizer(ctx, ed) // somebody may have replaced the EdgeDevice as a whole
}

// get returns a Node from memory, nil if there is none.
func (c *Controller) get(name string) (*corev1.Node, error) {
	object, exists, err := c.written.GetByKey(name)
	if err != nil || !exists {
		return nil, err
	}
	return object.(*corev1.Node), nil
}

// create creates the Node, and takes off the taint that admission put on it. Nobody removes what belongs to the
// EdgeDevice meanwhile, see Of.
func (c *Controller) create(ctx context.Context, ed *aranya.EdgeDevice, session gateway.Session) error {
	c.setCreating(ed.UID, true)
	defer c.setCreating(ed.UID, false)
	if c.deleted(ed) {
		return nil
	}
	reported, err := Decode(c.config.Tracker.NodeStatus(session))
	if err != nil {
		return &unusable{err}
	}
	if err := c.ensureFinalizer(ctx, ed); err != nil {
		return err
	}
	now := metav1.NewTime(c.config.Clock.Now())
	status := onlineStatus(ed, reported, &corev1.NodeStatus{}, endpoint{c.config.Address, c.config.Port}, now)
	nodes := c.census.creating(ed.Name)
	n, err := c.config.Kube.CoreV1().Nodes().Create(ctx, newNode(ed, status, nodes, now), metav1.CreateOptions{})
	if err != nil {
		c.census.failed(ed.Name)
	}
	if err != nil { // if it exists already, the informer is about to tell whose it is
		return fmt.Errorf("create Node: %w", err)
	}
	if now, err := c.devices.EdgeDevices(ed.Namespace).Get(ed.Name); err != nil || now.UID != ed.UID {
		return c.deleteNode(ctx, n) // the finalizer was taken off by force: nobody else will
	}
	c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeNormal, "NodeCreated", "Created Node %s", n.Name)
	klog.FromContext(ctx).Info("Created the Node")
	c.leases.start(n, true)
	return c.untaint(ctx, n, isReady(&status))
}

// deleted says whether an EdgeDevice is gone or about to go.
func (c *Controller) deleted(ed *aranya.EdgeDevice) bool {
	now, err := c.devices.EdgeDevices(ed.Namespace).Get(ed.Name)
	return err != nil || now.UID != ed.UID || now.DeletionTimestamp != nil
}

func (c *Controller) setCreating(uid types.UID, creating bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if creating {
		c.creating.Insert(uid)
	} else {
		c.creating.Delete(uid)
	}
}

// online brings the Node of a connected device up to date.
func (c *Controller) online(ctx context.Context, ed *aranya.EdgeDevice, n *corev1.Node, session gateway.Session) (time.Duration, error) {
	key, with := links.Key(session.Device()), inputs{session, c.config.Tracker.NodeStatus(session), ed.Generation, n.ResourceVersion}
	c.mu.Lock()
	done, wait := c.settled[key] == with, pace.Wait(c.spent[key], c.config.Clock.Now())
	c.mu.Unlock()
	switch {
	case done:
		return 0, nil
	case wait > 0:
		return wait, nil
	}
	c.leases.start(n, false) // whatever the device says: it is connected
	reported, err := Decode(with.reported)
	if err != nil {
		return 0, &unusable{err}
	}
	status := onlineStatus(ed, reported, &n.Status, endpoint{c.config.Address, c.config.Port}, metav1.NewTime(c.config.Clock.Now()))
	current := n
	if n, err = c.writeStatus(ctx, n, status); err == nil {
		n, err = c.adjust(ctx, ed, n, reported.NodeInfo, isReady(&status))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n != current { // it was written, or not for want of trying
		spent := c.spent[key]
		pace.Spend(&spent, c.config.Clock.Now())
		c.spent[key] = spent
	}
	if err != nil {
		return 0, err
	}
	with.version = n.ResourceVersion
	if _, lost := c.lost[key]; !lost {
		c.settled[key] = with
	}
	return 0, nil
}

// offline sets the Node of a device that is away to Unknown, once. As long as the device may come back
// the Node is as it was, and its Lease is renewed: what is known is only that the link is gone.
func (c *Controller) offline(ctx context.Context, ed *aranya.EdgeDevice, n *corev1.Node, key types.NamespacedName) (time.Duration, error) {
	ready := Ready(n)
	if ready != nil && ready.Status == corev1.ConditionUnknown {
		c.leases.stop(n.Name, ed.UID)
		_, err := c.adjust(ctx, ed, n, n.Status.NodeInfo, false)
		return 0, err
	}
	wait, reason := c.away(key)
	if wait > 0 {
		c.leases.start(n, false)
		_, err := c.adjust(ctx, ed, n, n.Status.NodeInfo, false)
		return wait, err
	}
	c.leases.stop(n.Name, ed.UID)
	n, err := c.writeStatus(ctx, n, offlineStatus(&n.Status, reason, metav1.NewTime(c.config.Clock.Now())))
	if err != nil {
		return 0, err
	}
	_, err = c.adjust(ctx, ed, n, n.Status.NodeInfo, false)
	return 0, err
}

// forget drops what is kept of a device that is gone.
func (c *Controller) forget(key types.NamespacedName) {
	c.mu.Lock()
	delete(c.lost, key)
	delete(c.settled, key)
	delete(c.problems, key)
	delete(c.spent, key)
	c.mu.Unlock()
	c.census.failed(key.Name) // if its Node came and went without being seen
}

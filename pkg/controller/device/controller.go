package device

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/broker"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/node"
	"arhat.dev/aranya/pkg/controller/queue"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

const (
	// workers is how many EdgeDevices are worked on at the same time.
	workers = 32
	// settle is how long a change may wait for others: a device that comes, and its Node, cost one
	// write together.
	settle = 250 * time.Millisecond
	// nodeTime is how long the status of a device that has come waits for its Node, for the same reason.
	// Reads show the link at once. Many devices that come in the same seconds wait for their Nodes in turn.
	nodeTime = 15 * time.Second
)

// pace is how often what a device reports on itself is looked at. Of what it reports faster than that the last is.
var pace = queue.Pace{Burst: 20, Every: time.Second}

// Nodes is what the Controller needs of package node.
type Nodes interface {
	// Of returns the Node of an EdgeDevice that is being deleted, nil if it has none. It asks the
	// cluster if memory does not know of one.
	Of(ctx context.Context, ed *aranya.EdgeDevice) (*corev1.Node, error)
	// Drain deletes the pods on a Node; it returns when to call it again as long as they are waited for.
	Drain(ctx context.Context, n *corev1.Node, connected bool) (again time.Duration, err error)
	// Delete deletes a Node and its Lease, and what pods are left.
	Delete(ctx context.Context, n *corev1.Node) error
}

// Config of the Controller.
type Config struct {
	Edge    versioned.Interface
	Devices cache.SharedIndexInformer
	Lister  aranyalisters.EdgeDeviceLister
	// NodeInformer is for being told of changes, and for finding Nodes that stand in the way.
	NodeInformer cache.SharedIndexInformer
	Nodes        Nodes
	Tracker      *links.Tracker
	Events       *events.Recorder
	Clock        clock.WithTicker
	// Disconnect cuts the link of a device.
	Disconnect func(device gateway.Device, reason error)
	// Broker returns the state of a device's MQTT broker, false if it has none.
	Broker func(key types.NamespacedName) (broker.State, bool)
	// NodeProblem returns why a device's Node cannot be brought up to date.
	NodeProblem func(key types.NamespacedName) node.Problem
	// SeenBefore returns when a device was last known to be connected before the start, zero if that is not known.
	SeenBefore func(device gateway.Device) time.Time
	// ReconnectGrace is how long after the start a device may take to come back until it is Offline.
	ReconnectGrace time.Duration
}

// Controller keeps the status of EdgeDevices. It is a links.Listener.
type Controller struct {
	config  Config
	written cache.MutationCache // of EdgeDevices
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu    sync.Mutex
	start time.Time // devices cannot connect before Run, but while it begins
	turn  uint64
	// links holds what happened on the links since the start, by device.
	links map[types.NamespacedName]linkHistory
	// spent holds what devices have used of their pace.
	spent map[types.NamespacedName]queue.Spent
}

// linkHistory is what is to be told of a device's last link.
type linkHistory struct {
	// uid is that of the EdgeDevice whose link it was.
	uid types.UID
	// turn tells apart the links of a device.
	turn uint64
	// since is when it was noticed.
	since time.Time
	// announced is set once a new link, or its loss, shows in the stored status.
	announced bool
	// facts is a digest of what the device said of itself when it connected.
	facts uint64
	// lost says why the link was lost; down is set then.
	lost     string
	down     bool
	lastSeen time.Time
	lostAt   time.Time
	// was says that the link that was lost had been announced.
	was bool
	// written is the version of the EdgeDevice that was written here last.
	written string
}

var (
	_ links.Listener        = &Controller{}
	_ links.MessageListener = &Controller{}
)

// New returns a Controller that does nothing until Run.
func New(config Config) (*Controller, error) {
	if config.Broker == nil {
		config.Broker = func(types.NamespacedName) (broker.State, bool) { return broker.State{}, false }
	}
	if config.NodeProblem == nil {
		config.NodeProblem = func(types.NamespacedName) node.Problem { return node.Problem{} }
	}
	if config.SeenBefore == nil {
		config.SeenBefore = func(gateway.Device) time.Time { return time.Time{} }
	}
	c := &Controller{
		config:  config,
		written: queue.Written(config.Devices.GetIndexer()),
		queue:   queue.New[types.NamespacedName]("edgedevices", config.Clock),
		start:   config.Clock.Now(),
		links:   map[types.NamespacedName]linkHistory{},
		spent:   map[types.NamespacedName]queue.Spent{},
	}
	_, deviceErr := config.Devices.AddEventHandler(c.deviceHandler())
	_, nodeErr := config.NodeInformer.AddEventHandler(c.nodeHandler())
	return c, errors.Join(deviceErr, nodeErr)
}

// Run works until ctx ends, and returns when all workers have. The informers must have synced.
func (c *Controller) Run(ctx context.Context) {
	c.mu.Lock()
	c.start = c.config.Clock.Now()
	c.mu.Unlock()
	queue.Run(ctx, c.queue, workers, c.sync)
}

// grace is how much longer a device may take to come back after the start.
func (c *Controller) grace() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config.ReconnectGrace - c.config.Clock.Since(c.start)
}

// Message implements links.MessageListener.
func (c *Controller) Message(s gateway.Session, msg *edgeapi.DeviceMessage) {
	if _, ok := msg.GetMessage().(*edgeapi.DeviceMessage_NodeStatus); ok {
		key := links.Key(s.Device())
		c.mu.Lock()
		wait := pace.Wait(c.spent[key], c.config.Clock.Now())
		c.mu.Unlock()
		c.queue.AddAfter(key, max(wait, settle))
	}
}

// sync brings the stored status of an EdgeDevice up to date, or removes what belongs to one that is
// being deleted.
func (c *Controller) sync(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	object, exists, err := c.written.GetByKey(key.String())
	if err != nil {
		return 0, err
	}
	if !exists {
		c.forget(key)
		return 0, nil
	}
	ed := object.(*aranya.EdgeDevice)
	ctx = klog.NewContext(ctx, klog.LoggerWithValues(klog.FromContext(ctx), "edgeDevice", klog.KObj(ed)))
	c.dropFormer(key, ed)
	if ed.DeletionTimestamp != nil {
		if seen, err := c.config.Lister.EdgeDevices(key.Namespace).Get(key.Name); err == nil && seen.DeletionTimestamp == nil {
			// The Node controller does not know yet, and might create a Node that nobody removes. The
			// informer is about to tell both.
			return 0, nil
		}
		return c.finalize(ctx, ed)
	}
	if !c.told(key, ed) {
		return 0, nil
	}
	history, linked := c.history(gateway.DeviceOf(ed))
	if wait := nodeTime - c.config.Clock.Since(history.since); linked && !history.announced && wait > 0 && c.awaitsNode(key, ed) {
		return wait, nil // the Node, once it is there, leads here at once
	}
	status, again := c.status(ctx, ed)
	waits := history.down && again > 0 // for the device to come back
	news := linked && !history.announced && !waits
	if news { // before anybody can have read it
		c.setAnnounced(key, history, true)
	}
	if !same(&ed.Status, status) || news && history.down { // when it was last heard of is part of the loss
		if err := c.write(ctx, ed, status); err != nil {
			c.setAnnounced(key, history, history.announced)
			if apierrors.IsConflict(err) {
				return settle, nil // the informer is about to tell of the change
			}
			return 0, err
		}
	}
	if news && history.down {
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeWarning, "Disconnected", "The link to the device was lost: %s", history.lost)
	}
	c.tellConflict(ed, status)
	c.tellBroker(ed, status)
	return again, nil
}

// awaitsNode says whether a device has come that is about to get its first Node.
func (c *Controller) awaitsNode(key types.NamespacedName, ed *aranya.EdgeDevice) bool {
	n, conflict := c.node(ed)
	return n == nil && conflict == "" && !ed.Spec.Node.Disabled && c.config.NodeProblem(key) == (node.Problem{}) && c.config.Tracker.Session(key, ed.UID) != nil
}

// write replaces the stored status. It fails with a conflict if the EdgeDevice was changed since it was
// read, by the gateway above all, whose part of the status the certificate is.
func (c *Controller) write(ctx context.Context, ed *aranya.EdgeDevice, status *aranya.EdgeDeviceStatus) error {
	ed = ed.DeepCopy()
	ed.Status = *status
	c.spend(types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name})
	written, err := c.config.Edge.AranyaV1alpha1().EdgeDevices(ed.Namespace).UpdateStatus(ctx, ed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	c.written.Mutation(written)
	c.setWritten(types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name}, written.ResourceVersion)
	return nil
}

func (c *Controller) spend(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	spent := c.spent[key]
	pace.Spend(&spent, c.config.Clock.Now())
	c.spent[key] = spent
}

// tellConflict records an event when the Node of this name turns out to be somebody else's.
func (c *Controller) tellConflict(ed *aranya.EdgeDevice, status *aranya.EdgeDeviceStatus) {
	after := meta.FindStatusCondition(status.Conditions, aranya.EdgeDeviceNodeReady)
	before := meta.FindStatusCondition(ed.Status.Conditions, aranya.EdgeDeviceNodeReady)
	if after != nil && after.Reason == aranya.ReasonConflict && (before == nil || before.Reason != aranya.ReasonConflict) {
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeWarning, aranya.ReasonConflict, "%s", after.Message)
	}
}

// tellBroker records an event when the MQTT broker is lost, for another reason than before, or is back.
func (c *Controller) tellBroker(ed *aranya.EdgeDevice, status *aranya.EdgeDeviceStatus) {
	after := meta.FindStatusCondition(status.Conditions, aranya.EdgeDeviceBrokerConnected)
	before := meta.FindStatusCondition(ed.Status.Conditions, aranya.EdgeDeviceBrokerConnected)
	switch {
	case after == nil || before != nil && before.Status == after.Status && before.Message == after.Message:
	case after.Status == metav1.ConditionFalse:
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeWarning, after.Reason, "%s", after.Message)
	case before != nil && before.Status == metav1.ConditionFalse:
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeNormal, after.Reason, "%s", after.Message)
	}
}

// Notice has the status of a device follow what is known of its MQTT broker and of its Node.
func (c *Controller) Notice(key types.NamespacedName) { c.queue.AddAfter(key, settle) }

// forget drops what is kept of a device that is gone, and cuts its link.
func (c *Controller) forget(key types.NamespacedName) {
	if device, ok := c.config.Tracker.Linked(key); ok {
		c.config.Disconnect(device, errDeleted)
		return // LinkDown leads here again
	}
	c.mu.Lock()
	delete(c.links, key)
	delete(c.spent, key)
	c.mu.Unlock()
}

// dropFormer cuts the link of a former EdgeDevice of the same name.
func (c *Controller) dropFormer(key types.NamespacedName, ed *aranya.EdgeDevice) {
	if device, ok := c.config.Tracker.Linked(key); ok && device.UID != ed.UID {
		c.config.Disconnect(device, errDeleted)
	}
}

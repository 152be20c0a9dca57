package node

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/edge/gateway"
)

const (
	// leaseDuration is what a Lease promises. Controller-manager sets a Node to Unknown if its Lease
	// was not renewed for 50 s (node-monitor-grace-period).
	leaseDuration = 45 * time.Second
	// leaseInterval is how often a Lease is renewed: as rarely as leaves time for several retries.
	leaseInterval = 30 * time.Second
	// leaseSlack is how late a renewal may be on purpose.
	leaseSlack = 5 * time.Second
	// leaseBackoff bounds the time between retries: an API server that is back after a restart must be noticed while
	// what was due meanwhile has still some seconds left.
	leaseBackoff = 3 * time.Second
	// leaseStep is what the moments of renewals are rounded to: with thousands of Nodes, those that are due
	// together wake the process up once.
	leaseStep = 100 * time.Millisecond
	// leaseFindTime is how long to wait at the start for the Leases that there are.
	leaseFindTime = 10 * time.Second
	// leaseWorkers bounds how many are renewed at the same time: as many as are usually due together with
	// thousands of Nodes.
	leaseWorkers = 32
)

// leases renews the Leases of the Nodes whose devices are connected. One queue serves all of them:
// there is no goroutine and no timer per Node. Each Node has its own moment within the interval, which
// follows from its UID, so that the renewals are spread evenly however the devices came.
type leases struct {
	kube   kubernetes.Interface
	client coordinationclient.LeaseInterface // for all that a renewal takes
	clock  clock.WithTicker
	queue  workqueue.TypedRateLimitingInterface[string]

	mu sync.Mutex
	// active holds the Nodes whose Leases are renewed, by name.
	active map[string]*leaseState
	// found holds the Leases that there were at the start, by name, as long as they are of use.
	found      map[string]*coordinationv1.Lease
	foundUntil time.Time
	// before holds when those were last renewed, by the UID of the Node.
	before map[types.UID]time.Time
}

type leaseState struct {
	node types.UID
	// device is the EdgeDevice that the Node stood for when it was begun.
	device types.UID
	// lease is the last one written, nil if that is not known. It has no managed fields: the API server keeps
	// those it has if none are sent.
	lease *coordinationv1.Lease

	// uid is that of the last Lease written, leaving says that the Node will soon be deleted, gone that it is
	// about to be, and fresh that it was just created and nobody has begun to write its Lease. All are guarded
	// by leases.mu.
	uid                  types.UID
	leaving, gone, fresh bool
}

func newLeases(kube kubernetes.Interface, client coordinationclient.LeasesGetter, clock clock.WithTicker) *leases {
	if client == nil {
		client = kube.CoordinationV1()
	}
	return &leases{
		kube: kube, client: client.Leases(corev1.NamespaceNodeLease), clock: clock,
		queue: queue.NewWithBackoff[string]("leases", clock, leaseBackoff), active: map[string]*leaseState{},
	}
}

func (l *leases) run(ctx context.Context) {
	l.find(ctx)
	queue.Run(ctx, l.queue, leaseWorkers, l.renew)
}

// find reads what Leases there are with one request. Those that came due while aranya was down have only some
// seconds left, at a time when all devices come back: to read them one by one would take longer.
func (l *leases) find(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaseFindTime)
	defer cancel()
	// What the API server has in memory will do: an update fails if it lags behind.
	list, err := l.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot list the Leases of Nodes; they are read one by one")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found, l.foundUntil = make(map[string]*coordinationv1.Lease, len(list.Items)), l.clock.Now().Add(leaseInterval)
	l.before = make(map[types.UID]time.Time, len(list.Items))
	for i := range list.Items {
		lease := &list.Items[i]
		l.found[lease.Name] = lease
		if len(lease.OwnerReferences) == 1 && lease.Spec.RenewTime != nil {
			l.before[lease.OwnerReferences[0].UID] = lease.Spec.RenewTime.Time
		}
	}
}

// SeenBefore is when a device was last known to be connected before the start, by the Lease of its Node; zero if that is
// not known.
func (c *Controller) SeenBefore(device gateway.Device) time.Time {
	n, err := c.get(device.Name)
	if err != nil || n == nil {
		return time.Time{}
	}
	if owner, ok := Owner(n); !ok || owner != device {
		return time.Time{}
	}
	c.leases.mu.Lock()
	defer c.leases.mu.Unlock()
	return c.leases.before[n.UID]
}

// get returns a Lease, once as it was found at the start, then from the API server.
func (l *leases) get(ctx context.Context, nodeName string) (*coordinationv1.Lease, error) {
	l.mu.Lock()
	lease := l.found[nodeName]
	delete(l.found, nodeName)
	l.mu.Unlock()
	if lease != nil {
		return lease, nil
	}
	return l.client.Get(ctx, nodeName, metav1.GetOptions{})
}

// start begins to renew the Lease of a Node, unless that is under way. A Node that was just created has no
// Lease until its turn comes, the second one if the first is at once: its status is as good a sign of life, and to
// controller-manager its time begins when it first sees the Node.
func (l *leases) start(n *corev1.Node, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if st := l.active[n.Name]; st != nil && st.node == n.UID {
		return
	}
	l.active[n.Name] = &leaseState{node: n.UID, device: types.UID(n.Annotations[aranya.AnnotationUID]), fresh: fresh}
	if fresh {
		wait := l.untilTurn(n.UID)
		if wait <= leaseSlack {
			wait += leaseInterval
		}
		l.queue.AddAfter(n.Name, wait)
		return
	}
	l.queue.Add(n.Name)
}

// stop ends the renewals for the Node of an EdgeDevice, unless one of another has that name by now; the Lease stays.
func (l *leases) stop(nodeName string, device types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if st := l.active[nodeName]; st != nil && st.device == device {
		delete(l.active, nodeName)
	}
}

// leave ends the renewals for a Node that will soon be deleted. What is known of its Lease stays, for release.
func (l *leases) leave(n *corev1.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if st := l.active[n.Name]; st != nil && st.node == n.UID {
		st.leaving = true
	}
}

// release ends the renewals for a Node that is about to be deleted, and deletes its Lease if that was written
// here; there may be none yet. One that is being written now is deleted right after.
func (l *leases) release(ctx context.Context, n *corev1.Node) (released bool, err error) {
	l.mu.Lock()
	st := l.active[n.Name]
	delete(l.active, n.Name)
	var uid types.UID
	fresh := false
	if st != nil && st.node == n.UID {
		st.gone, uid, fresh = true, st.uid, st.fresh
	}
	l.mu.Unlock()
	if uid == "" {
		return fresh, nil
	}
	return true, l.delete(ctx, n.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
}

// wrote notes which Lease was written. It returns false if the Node is about to be deleted.
func (l *leases) wrote(st *leaseState, uid types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	st.uid = uid
	return !st.gone
}

// delete deletes a Lease, unless there is none or one of another UID.
func (l *leases) delete(ctx context.Context, nodeName string, options metav1.DeleteOptions) error {
	err := l.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, nodeName, options)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete Lease of Node %s: %w", nodeName, err)
	}
	return nil
}

// turn returns the state of a Node whose Lease is about to be written, nil if it is not to be, and whether it
// cannot have one yet.
func (l *leases) turn(nodeName string) (st *leaseState, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.found != nil && l.clock.Now().After(l.foundUntil) {
		l.found = nil
	}
	if st = l.active[nodeName]; st == nil || st.leaving {
		return nil, false
	}
	fresh, st.fresh = st.fresh, false
	return st, fresh
}

// renew renews one Lease and says when to do so again. Only one worker at a time has a given name, so
// that the fields of its state need no lock.
func (l *leases) renew(ctx context.Context, nodeName string) (time.Duration, error) {
	st, fresh := l.turn(nodeName)
	if st == nil {
		return 0, nil
	}
	if st.lease == nil && !fresh {
		lease, err := l.get(ctx, nodeName)
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("read Lease of Node %s: %w", nodeName, err)
		}
		if err == nil {
			st.lease = withoutManagedFields(lease)
			if turn := l.untilTurn(st.node); l.good(lease, nodeName, st.node, turn) {
				l.wrote(st, lease.UID)
				return turn, nil
			}
		}
	}
	written, err := l.write(ctx, nodeName, st)
	if err != nil {
		st.lease = nil // read it again
		return 0, fmt.Errorf("renew Lease of Node %s: %w", nodeName, err)
	}
	st.lease = withoutManagedFields(written)
	if !l.wrote(st, written.UID) {
		return 0, l.delete(ctx, nodeName, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &written.UID}})
	}
	return l.untilTurn(st.node), nil
}

func withoutManagedFields(lease *coordinationv1.Lease) *coordinationv1.Lease {
	lease.ManagedFields = nil
	return lease
}

// good says whether a Lease that another aranya, or this one before the link was lost, has renewed can
// wait for its turn: thousands of devices that come back at once cost no write then.
func (l *leases) good(lease *coordinationv1.Lease, nodeName string, node types.UID, turn time.Duration) bool {
	owned := len(lease.OwnerReferences) == 1 && lease.OwnerReferences[0].UID == node
	if !owned || ptr.Deref(lease.Spec.HolderIdentity, "") != nodeName || lease.Spec.RenewTime == nil {
		return false
	}
	return l.clock.Since(lease.Spec.RenewTime.Time)+turn <= leaseInterval+leaseSlack
}

func (l *leases) write(ctx context.Context, nodeName string, st *leaseState) (*coordinationv1.Lease, error) {
	now := metav1.NewMicroTime(l.clock.Now())
	lease := st.lease
	if lease == nil {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Namespace: corev1.NamespaceNodeLease}}
	}
	lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: nodeName, UID: st.node}}
	lease.Spec.HolderIdentity = &nodeName
	lease.Spec.LeaseDurationSeconds = ptr.To(int32(leaseDuration / time.Second))
	lease.Spec.RenewTime = &now
	if st.lease == nil {
		return l.client.Create(ctx, lease, metav1.CreateOptions{})
	}
	return l.client.Update(ctx, lease, metav1.UpdateOptions{})
}

// untilTurn is the time until the Node's moment within the interval, which is at most that long.
func (l *leases) untilTurn(node types.UID) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node))
	phase := leaseStep * time.Duration(h.Sum64()%uint64(leaseInterval/leaseStep))
	now := time.Duration(l.clock.Now().UnixNano())
	return leaseInterval - (now-phase+leaseInterval)%leaseInterval
}

package node

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"arhat.dev/aranya/test/framework/eventually"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func namedNode(i int) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), UID: types.UID(fmt.Sprintf("uid-%d", i))}}
}

func startLeases(t *testing.T, client *fake.Clientset, clock clock.WithTicker) *leases {
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	l := newLeases(client, nil, clock)
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

// writes counts creations and renewals.
func writes(client *fake.Clientset) int {
	n := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "create" || a.GetVerb() == "update" {
			n++
		}
	}
	return n
}

func TestRenewalsAreSpreadEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes = 120
		client := fake.NewClientset()
		l := startLeases(t, client, clock.RealClock{}) // the time of the bubble
		synctest.Wait()
		before := runtime.NumGoroutine()
		for i := range nodes {
			l.start(namedNode(i), true)
		}
		synctest.Wait()
		if n := writes(client); n != 0 {
			t.Fatalf("%d Leases of Nodes that are new", n)
		}
		if after := runtime.NumGoroutine(); after > before+leaseWorkers+5 {
			t.Errorf("%d goroutines more for %d Nodes", after-before, nodes)
		}
		// All of them wait for their turn now; within one interval each has exactly one.
		due := map[int]int{}
		for i := range nodes {
			wait := l.untilTurn(namedNode(i).UID)
			if wait <= 0 || wait > leaseInterval {
				t.Errorf("renewal after %s", wait)
			}
			if at := time.Now().Add(wait).UnixNano(); at%int64(leaseStep) != 0 {
				t.Errorf("renewal between two steps, after %s", wait)
			}
			due[int(wait/(5*time.Second))]++
		}
		for slot := range int(leaseInterval / (5 * time.Second)) {
			if n := due[slot]; n < nodes/18 || n > nodes/3 {
				t.Errorf("%d of %d renewals fall into the same sixth of the interval", n, nodes)
			}
		}
		time.Sleep(leaseSlack)
		synctest.Wait()
		if n := writes(client); n != 0 {
			t.Errorf("%d Leases of Nodes that are still new", n)
		}
		for _, what := range []string{"creations", "renewals"} {
			before := writes(client)
			time.Sleep(leaseInterval)
			synctest.Wait()
			if n := writes(client) - before; n != nodes {
				t.Errorf("%d %s of %d Leases in an interval", n, what, nodes)
			}
		}
	})
}

func TestRenewalStopsAndResumes(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	client := fake.NewClientset()
	l := startLeases(t, client, clock)
	n := namedNode(1)
	l.start(n, true)
	eventually.Holds(t, "waiting for its turn", clock.HasWaiters)
	clock.Step(leaseInterval + leaseSlack)
	eventually.Holds(t, "created", func() bool { return writes(client) == 1 })
	l.stop(n.Name, "")
	for range 5 {
		clock.Step(leaseInterval)
	}
	l.start(namedNode(2), false)
	eventually.Holds(t, "another one created", func() bool { return writes(client) == 2 })

	// A lease that is there already is taken over.
	l.start(n, false)
	eventually.Holds(t, "renewed", func() bool {
		lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(context.Background(), n.Name, metav1.GetOptions{})
		return err == nil && lease.Spec.RenewTime.Time.Equal(clock.Now()) && *lease.Spec.LeaseDurationSeconds == 45 && *lease.Spec.HolderIdentity == n.Name && lease.OwnerReferences[0].UID == n.UID
	})
	if err := l.delete(context.Background(), n.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := l.delete(context.Background(), n.Name, metav1.DeleteOptions{}); err != nil {
		t.Errorf("deleting what is gone: %v", err)
	}
}

func TestRenewalSurvivesConflictAndLoss(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	former := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n1"}}
	client := fake.NewClientset(former)
	conflicts := 0
	client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, kruntime.Object, error) {
		if conflicts++; conflicts == 1 {
			return true, nil, apierrors.NewConflict(coordinationv1.Resource("leases"), "n1", errors.New("changed"))
		}
		return false, nil, nil
	})
	l := startLeases(t, client, clock)
	l.start(namedNode(1), true) // thinks that there is none
	eventually.Holds(t, "taken over", func() bool {
		clock.Step(time.Second) // the back-off
		lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(context.Background(), "n1", metav1.GetOptions{})
		return err == nil && len(lease.OwnerReferences) == 1 && lease.OwnerReferences[0].UID == "uid-1"
	})
}

// withUIDs gives Leases the UIDs that a real API server would.
// After a restart one request finds all Leases. Those that came due meanwhile are renewed at once, others when it
// is their turn.
func TestLeasesAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes = 60
		client := fake.NewClientset()
		due := 0
		turns := &leases{clock: clock.RealClock{}}
		for i := range nodes {
			n := namedNode(i)
			// As written at its last turn, unless that came while nobody was there.
			written := time.Now().Add(turns.untilTurn(n.UID) - leaseInterval)
			if i%3 == 0 {
				written, due = written.Add(-leaseInterval), due+1
			}
			lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
				Namespace: corev1.NamespaceNodeLease, Name: n.Name, OwnerReferences: []metav1.OwnerReference{{UID: n.UID}},
			}}
			lease.Spec.HolderIdentity, lease.Spec.RenewTime = &n.Name, &metav1.MicroTime{Time: written}
			if err := client.Tracker().Add(lease); err != nil {
				t.Fatal(err)
			}
		}
		l := startLeases(t, client, clock.RealClock{})
		for i := range nodes {
			l.start(namedNode(i), false)
		}
		synctest.Wait()
		for _, a := range client.Actions() {
			if a.GetVerb() == "get" {
				t.Fatal("a Lease was read by itself")
			}
		}
		if n := writes(client); n != due {
			t.Errorf("%d Leases were renewed at once, %d are due", n, due)
		}
		time.Sleep(leaseInterval)
		synctest.Wait()
		if n := writes(client); n != nodes+due {
			t.Errorf("%d renewals after an interval, want %d", n, nodes+due)
		}
		time.Sleep(leaseInterval)
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.found != nil {
			t.Error("what was found is still kept")
		}
	})
}

func withUIDs(client *fake.Clientset, created func()) {
	client.PrependReactor("create", "leases", func(action clienttesting.Action) (bool, kruntime.Object, error) {
		lease := action.(clienttesting.CreateAction).GetObject().(*coordinationv1.Lease)
		lease.UID = types.UID("lease-" + lease.Name)
		created()
		return false, nil, nil
	})
}

// deletions returns the UIDs that Leases had to have to be deleted.
func deletions(client *fake.Clientset) (uids []types.UID) {
	for _, a := range client.Actions() {
		if d, ok := a.(clienttesting.DeleteActionImpl); ok {
			uid := types.UID("any")
			if p := d.DeleteOptions.Preconditions; p != nil {
				uid = *p.UID
			}
			uids = append(uids, uid)
		}
	}
	return uids
}

func TestLeaseIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		withUIDs(client, func() {})
		l := startLeases(t, client, clock.RealClock{})
		n := namedNode(1)
		release := func(what string, n *corev1.Node, want bool) {
			t.Helper()
			if released, err := l.release(t.Context(), n); released != want || err != nil {
				t.Errorf("%s: %v %v", what, released, err)
			}
		}
		l.start(n, true)
		release("the Lease that a Node waits for", n, true)
		time.Sleep(leaseInterval)
		synctest.Wait()
		if n := writes(client) + len(deletions(client)); n > 0 {
			t.Errorf("%d calls for a Node that went before it had a Lease", n)
		}
		l.start(n, true)
		time.Sleep(leaseInterval)
		synctest.Wait()
		other := n.DeepCopy()
		other.UID = "other"
		release("the Lease of another Node of this name", other, false)
		l.start(n, false) // finds the one of before
		synctest.Wait()
		release("its own Lease", n, true)
		release("a Lease that is not known", n, false)
		if uids := deletions(client); len(uids) != 1 || uids[0] != "lease-n1" {
			t.Errorf("deleted %v", uids)
		}
	})
}

// A Lease that is being created while its Node is deleted must not stay.
func TestLeaseCreatedTooLate(t *testing.T) {
	client := fake.NewClientset()
	creating, released := make(chan struct{}), make(chan struct{})
	withUIDs(client, func() { close(creating); <-released })
	l := startLeases(t, client, clock.RealClock{})
	l.start(namedNode(1), false)
	<-creating
	// Not by the client, which holds a lock meanwhile: the UID is not known yet.
	if known, err := l.release(t.Context(), namedNode(1)); known || err != nil {
		t.Errorf("%v %v", known, err)
	}
	close(released)
	eventually.Holds(t, "deleted", func() bool {
		uids := deletions(client)
		return len(uids) == 1 && uids[0] == "lease-n1"
	})
}

// What the API server says of who manages which field is neither kept nor sent back: without it, it keeps what
// it has. What others have set stays.
func TestRenewalsCarryNoManagedFields(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	client := fake.NewClientset(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Namespace: corev1.NamespaceNodeLease, Name: "n1", Labels: map[string]string{"of": "others"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "others"}},
	}})
	client.PrependReactor("update", "leases", func(action clienttesting.Action) (bool, kruntime.Object, error) {
		lease := action.(clienttesting.UpdateAction).GetObject().(*coordinationv1.Lease)
		if len(lease.ManagedFields) > 0 || lease.Labels["of"] != "others" {
			t.Errorf("renewed with %v", lease.ObjectMeta)
		}
		answer := lease.DeepCopy()
		answer.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "aranya"}}
		return true, answer, nil
	})
	l := startLeases(t, client, clock)
	l.start(namedNode(1), false)
	eventually.Holds(t, "renewed again and again", func() bool {
		clock.Step(time.Second)
		return writes(client) >= 3
	})
}

// A Node that will soon be deleted gets no Lease any more, and none that it has is renewed; what it has is deleted
// with it.
func TestLeaseOfLeavingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		withUIDs(client, func() {})
		l := startLeases(t, client, clock.RealClock{})
		fresh, settled := namedNode(1), namedNode(2)
		l.start(fresh, true)
		l.start(settled, false)
		synctest.Wait()
		before := writes(client)
		if before != 1 {
			t.Fatalf("%d Leases were created, want that of one Node", before)
		}
		former := settled.DeepCopy()
		former.UID = "former"
		l.leave(former)
		time.Sleep(leaseInterval)
		synctest.Wait()
		if writes(client) == before {
			t.Error("not renewed after a former Node of this name left")
		}
		l.stop(fresh.Name, "")
		l.start(fresh, true)
		l.leave(fresh)
		l.leave(settled)
		before = writes(client)
		time.Sleep(3 * leaseInterval)
		synctest.Wait()
		if n := writes(client) - before; n > 0 {
			t.Errorf("%d writes for Nodes that leave", n)
		}
		for _, n := range []*corev1.Node{fresh, settled} {
			if released, err := l.release(t.Context(), n); !released || err != nil {
				t.Errorf("%s: %v %v", n.Name, released, err)
			}
		}
		if uids := deletions(client); len(uids) != 1 || uids[0] != "lease-n2" {
			t.Errorf("deleted %v", uids)
		}
	})
}

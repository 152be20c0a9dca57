package node

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

// All that a renewal takes goes through the client for it: another one may wait long for an answer.
func TestRenewalsUseTheirClient(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	kube, client := fake.NewClientset(), fake.NewClientset()
	l := newLeases(kube, client.CoordinationV1(), clock)
	t.Cleanup(l.queue.ShutDown)
	l.start(namedNode(1), false)
	for range 2 {
		if _, err := l.renew(t.Context(), "n1"); err != nil {
			t.Fatal(err)
		}
	}
	var verbs []string
	for _, a := range client.Actions() {
		verbs = append(verbs, a.GetVerb())
	}
	if !slices.Equal(verbs, []string{"get", "create", "update"}) || len(kube.Actions()) > 0 {
		t.Errorf("did %v, and otherwise %v", verbs, kube.Actions())
	}
}

// An API server that is restarted costs no Node its readiness.
func TestRenewalsAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, outage, grace = 60, 15 * time.Second, 50 * time.Second
		client := fake.NewClientset()
		var mu sync.Mutex
		var down bool
		renewed := map[string]time.Time{}
		client.PrependReactor("*", "leases", func(action clienttesting.Action) (bool, kruntime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			if down {
				return true, nil, errors.New("connection refused")
			}
			if update, ok := action.(clienttesting.UpdateAction); ok { // a creation is one as well
				name := update.GetObject().(*coordinationv1.Lease).Name
				if last, ok := renewed[name]; ok && time.Since(last) > grace {
					t.Errorf("the Lease of %s was renewed after %s", name, time.Since(last))
				}
				renewed[name] = time.Now()
			}
			return false, nil, nil
		})
		l := startLeases(t, client, clock.RealClock{})
		for i := range nodes {
			l.start(namedNode(i), false)
		}
		setDown := func(is bool) {
			mu.Lock()
			defer mu.Unlock()
			down = is
		}
		time.Sleep(2 * leaseInterval)
		setDown(true)
		time.Sleep(outage)
		setDown(false)
		time.Sleep(2 * leaseInterval)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for name, last := range renewed {
			if time.Since(last) > leaseInterval {
				t.Errorf("the Lease of %s was renewed %s ago", name, time.Since(last))
			}
		}
		if len(renewed) != nodes {
			t.Errorf("%d Leases of %d Nodes", len(renewed), nodes)
		}
	})
}

package events

import (
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/component-base/metrics/testutil"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/test/framework/eventually"
)

// While the cluster takes no events those of many devices are more than can wait: each is written or counted.
func TestEventsOfManyDevicesAreWrittenOrCounted(t *testing.T) {
	for name, tell := range map[string]func(*Recorder, gateway.Device){
		"of a device": func(r *Recorder, d gateway.Device) {
			r.FromDevice(d, "", nil, &edgeapi.Event{Type: "Warning", Reason: "DiskPressure", Message: "full"})
		},
		"of aranya": func(r *Recorder, d gateway.Device) { r.Device(d, corev1.EventTypeWarning, "Disconnected", "lost") },
	} {
		t.Run(name, func(t *testing.T) {
			held := make(chan struct{})
			var written atomic.Int64
			client := fake.NewClientset()
			client.PrependReactor("create", "events", func(a k8stesting.Action) (bool, runtime.Object, error) {
				<-held
				written.Add(1)
				return true, a.(k8stesting.CreateAction).GetObject(), nil
			})
			count := func() int64 {
				n, err := testutil.GetCounterMetricValue(dropped.WithLabelValues(droppedQueue))
				if err != nil {
					t.Fatal(err)
				}
				return int64(n)
			}
			r := New(t.Context())
			defer r.Stop()
			before := count()
			for i := range 2 * maxQueued {
				tell(r, gateway.Device{Namespace: "early", Name: fmt.Sprint(i), UID: "u"}) // lost, and in nobody's way
			}
			r.Start(Clients{Normal: client, Warning: client})
			const all = 3 * maxQueued
			for i := range all {
				tell(r, gateway.Device{Namespace: "ns", Name: fmt.Sprint(i), UID: "u"})
			}
			lost := count() - before
			if lost < all-maxQueued-1 || lost > all-maxQueued { // one may be about to be written
				t.Errorf("%d of %d events are counted as dropped", lost, all)
			}
			close(held)
			eventually.Succeeds(t, func() error {
				if n := written.Load(); n+lost < all {
					return fmt.Errorf("of %d events %d were written and %d are counted as dropped", all, n, lost)
				}
				return nil
			})
			tell(r, gateway.Device{Namespace: "ns", Name: "later", UID: "u"})
			if count()-before != lost {
				t.Error("there is no room again")
			}
		})
	}
}

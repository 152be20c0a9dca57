package device

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/node"
	"arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	"arhat.dev/aranya/pkg/generated/informers/externalversions"
)

// newController returns a Controller that does not run, of a cluster with these EdgeDevices and no Node. It has a clock
// that stands still and a tracker without links, unless the config names others.
func newController(t *testing.T, config Config, stored ...*aranya.EdgeDevice) *Controller {
	t.Helper()
	var objects []runtime.Object
	for _, ed := range stored {
		objects = append(objects, ed)
	}
	client := fake.NewClientset(objects...)
	devices := externalversions.NewSharedInformerFactory(client, 0).Aranya().V1alpha1().EdgeDevices()
	if err := devices.Informer().AddIndexers(cache.Indexers{node.NameIndex: node.IndexDevice}); err != nil {
		t.Fatal(err)
	}
	for _, ed := range stored {
		if err := devices.Informer().GetIndexer().Add(ed); err != nil {
			t.Fatal(err)
		}
	}
	config.Edge, config.Devices, config.Lister = client, devices.Informer(), devices.Lister()
	config.NodeInformer = informers.NewSharedInformerFactory(kubefake.NewClientset(), 0).Core().V1().Nodes().Informer()
	config.Events = events.New(t.Context())
	t.Cleanup(config.Events.Stop)
	if config.Clock == nil {
		config.Clock = clocktesting.NewFakeClock(time.Unix(1e9, 0))
	}
	if config.Tracker == nil {
		config.Tracker = links.NewTracker(config.Clock, time.Hour)
	}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.queue.ShutDown)
	return c
}

// synced looks at an EdgeDevice, and returns it as it is stored then.
func synced(t *testing.T, c *Controller, ed *aranya.EdgeDevice) *aranya.EdgeDevice {
	t.Helper()
	if _, err := c.sync(t.Context(), deviceKey(ed)); err != nil {
		t.Fatal(err)
	}
	stored, err := c.config.Edge.AranyaV1alpha1().EdgeDevices(ed.Namespace).Get(t.Context(), ed.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

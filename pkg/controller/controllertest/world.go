// Package controllertest has what tests of controllers need around them: a cluster and EdgeDevices in memory, and
// an informer of the latter. Nothing but tests may import it.
package controllertest

import (
	"context"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"
	"k8s.io/klog/v2/ktesting"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
	"arhat.dev/aranya/test/framework/eventually"
)

// World is what a controller lives in.
type World struct {
	T *testing.T
	// Ctx ends with the test, before what runs in it is waited for.
	Ctx  context.Context
	Kube *kubefake.Clientset
	// Edge holds the EdgeDevices.
	Edge *fcache.FakeControllerSource
	// Devices follows Edge from Start on, and Lister reads from it.
	Devices cache.SharedIndexInformer
	Lister  aranyalisters.EdgeDeviceLister

	cancel context.CancelFunc
}

// New returns a World with the objects given in its cluster.
func New(t *testing.T, objects ...runtime.Object) *World {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	w := &World{T: t, Kube: kubefake.NewClientset(objects...), Edge: fcache.NewFakeControllerSource()}
	w.Ctx, w.cancel = context.WithCancel(ctx)
	w.Devices = cache.NewSharedIndexInformer(w.Edge, &aranya.EdgeDevice{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	w.Lister = aranyalisters.NewEdgeDeviceLister(w.Devices.GetIndexer())
	t.Cleanup(func() {
		w.cancel()
		w.Edge.Shutdown()
	})
	return w
}

// Start starts the informer, and then the controller. At the end of the test it ends Ctx and waits for both, before
// what the test has registered with Cleanup until now.
func (w *World) Start(run func(context.Context)) {
	w.T.Helper()
	var running sync.WaitGroup
	w.T.Cleanup(func() {
		w.cancel()
		running.Wait()
	})
	running.Go(func() { w.Devices.RunWithContext(w.Ctx) })
	cache.WaitForCacheSync(w.Ctx.Done(), w.Devices.HasSynced)
	running.Go(func() { run(w.Ctx) })
}

// Eventually waits until a condition holds.
func (w *World) Eventually(what string, holds func() bool) {
	w.T.Helper()
	eventually.Holds(w.T, what, holds)
}

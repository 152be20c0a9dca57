package service

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"
	"k8s.io/klog/v2/ktesting"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/events"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

type world struct {
	t    *testing.T
	ctx  context.Context
	kube *kubefake.Clientset
	edge *fcache.FakeControllerSource
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	w := &world{t: t, ctx: ctx, kube: kubefake.NewClientset(objects...), edge: fcache.NewFakeControllerSource()}
	devices := cache.NewSharedIndexInformer(w.edge, &aranya.EdgeDevice{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	factory := informers.NewSharedInformerFactory(w.kube, 0)
	recorder := events.New(ctx)
	recorder.Start(w.kube)
	c, err := New(Config{
		Kube: w.kube, Devices: devices, Lister: aranyalisters.NewEdgeDeviceLister(devices.GetIndexer()),
		Services: factory.Core().V1().Services().Informer(), Events: recorder, Address: "192.0.2.1", Port: 7443,
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	var running sync.WaitGroup
	running.Go(func() { devices.RunWithContext(ctx) })
	cache.WaitForCacheSync(ctx.Done(), devices.HasSynced)
	running.Go(func() { c.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		factory.Shutdown()
		recorder.Stop()
		w.edge.Shutdown()
	})
	return w
}

func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("timed out waiting: %s", what)
		}
	}
}

func (w *world) service(name string) *corev1.Service {
	svc, err := w.kube.CoreV1().Services("ns").Get(w.ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.t.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return svc
}

func (w *world) slice(name string) *discoveryv1.EndpointSlice {
	slice, err := w.kube.DiscoveryV1().EndpointSlices("ns").Get(w.ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return slice
}

func device(name, uid string, spec *aranya.ServiceSpec) *aranya.EdgeDevice {
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)}}
	if spec != nil {
		ed.Spec.Connectivity.GRPCConfig = &aranya.GRPCConfig{Service: spec}
	}
	return ed
}

func TestServiceOfADevice(t *testing.T) {
	w := newWorld(t)
	w.edge.Add(device("d", "1", &aranya.ServiceSpec{Annotations: map[string]string{"a": "1"}}))
	w.eventually("a Service with endpoints", func() bool { return w.service("d") != nil && w.slice("d-grpc") != nil })
	svc, slice := w.service("d"), w.slice("d-grpc")
	if p := svc.Spec.Ports; svc.Spec.Type != corev1.ServiceTypeClusterIP || svc.Spec.Selector != nil || len(p) != 1 || p[0].Name != "grpc" || p[0].Port != 7443 {
		t.Errorf("the Service is %+v", svc.Spec)
	}
	if svc.Annotations["a"] != "1" || svc.Annotations[aranya.AnnotationUID] != "1" || len(svc.OwnerReferences) != 1 {
		t.Errorf("the Service is %+v", svc.ObjectMeta)
	}
	if slice.Labels[discoveryv1.LabelServiceName] != "d" || slice.Endpoints[0].Addresses[0] != "192.0.2.1" || *slice.Ports[0].Name != "grpc" || *slice.Ports[0].Port != 7443 {
		t.Errorf("the EndpointSlice is %+v", slice)
	}
	w.edge.Modify(device("d", "1", &aranya.ServiceSpec{Type: aranya.ServiceTypeLoadBalancer, Annotations: map[string]string{"a": "2"}}))
	w.eventually("updated", func() bool {
		svc := w.service("d")
		return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Annotations["a"] == "2"
	})
	// What somebody breaks is repaired.
	if err := w.kube.CoreV1().Services("ns").Delete(w.ctx, "d", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("made again", func() bool { return w.service("d") != nil })
	w.edge.Modify(device("d", "1", nil))
	w.eventually("removed", func() bool { return w.service("d") == nil && w.slice("d-grpc") == nil })
}

func TestServiceGoesWithTheDevice(t *testing.T) {
	w := newWorld(t)
	w.edge.Add(device("d", "1", &aranya.ServiceSpec{}))
	w.eventually("made", func() bool { return w.service("d") != nil && w.slice("d-grpc") != nil })
	w.edge.Delete(device("d", "1", &aranya.ServiceSpec{}))
	w.eventually("removed", func() bool { return w.service("d") == nil && w.slice("d-grpc") == nil })
}

func TestServiceOfAFormerDevice(t *testing.T) {
	former := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", Annotations: map[string]string{aranya.AnnotationUID: "0"}}}
	w := newWorld(t, former)
	w.edge.Add(device("d", "1", &aranya.ServiceSpec{}))
	w.eventually("replaced", func() bool { svc := w.service("d"); return svc != nil && svc.Annotations[aranya.AnnotationUID] == "1" })
}

func TestForeignServiceIsNotTouched(t *testing.T) {
	foreign := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x"}}}
	w := newWorld(t, foreign)
	w.edge.Add(device("d", "1", &aranya.ServiceSpec{}))
	w.eventually("the conflict is told", func() bool {
		list, err := w.kube.CoreV1().Events("ns").List(w.ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 1 && list.Items[0].Reason == ReasonConflict
	})
	w.edge.Delete(device("d", "1", &aranya.ServiceSpec{}))
	w.edge.Add(device("e", "2", &aranya.ServiceSpec{}))
	w.eventually("others get theirs", func() bool { return w.service("e") != nil })
	if svc := w.service("d"); svc == nil || svc.Spec.Selector["app"] != "x" || len(svc.Annotations) != 0 {
		t.Errorf("the foreign Service is now %+v", svc)
	}
}

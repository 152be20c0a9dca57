package service

import (
	"maps"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/controllertest"
	"arhat.dev/aranya/pkg/controller/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	*controllertest.World
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	w := &world{controllertest.New(t, objects...)}
	w.Kube.PrependReactor("create", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		action.(clienttesting.CreateAction).GetObject().(*corev1.Service).CreationTimestamp = metav1.Now() // as kube-apiserver does
		return false, nil, nil
	})
	factory := informers.NewSharedInformerFactory(w.Kube, 0)
	recorder := events.New(w.Ctx)
	recorder.Start(events.Clients{Normal: w.Kube, Warning: w.Kube})
	t.Cleanup(recorder.Stop)
	c, err := New(Config{
		Kube: w.Kube, Devices: w.Devices, Lister: w.Lister, Clock: clock.RealClock{},
		Services: factory.Core().V1().Services().Informer(), Events: recorder, Address: "192.0.2.1", Port: 7443,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(factory.Shutdown)
	factory.StartWithContext(w.Ctx)
	factory.WaitForCacheSync(w.Ctx.Done())
	w.Start(c.Run)
	return w
}

func (w *world) service(name string) *corev1.Service {
	svc, err := w.Kube.CoreV1().Services("ns").Get(w.Ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.T.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return svc
}

func (w *world) slice(name string) *discoveryv1.EndpointSlice {
	slice, err := w.Kube.DiscoveryV1().EndpointSlices("ns").Get(w.Ctx, name, metav1.GetOptions{})
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
	w.Kube.PrependReactor("create", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		action.(clienttesting.CreateAction).GetObject().(*corev1.Service).Annotations["others"] = "stay" // as admission may
		return false, nil, nil
	})
	w.Edge.Add(device("d", "1", &aranya.ServiceSpec{Annotations: map[string]string{"a": "1", "b": "1"}}))
	w.Eventually("a Service with endpoints", func() bool { return w.service("d") != nil && w.slice("d-grpc") != nil })
	svc, slice := w.service("d"), w.slice("d-grpc")
	if p := svc.Spec.Ports; svc.Spec.Type != corev1.ServiceTypeClusterIP || svc.Spec.Selector != nil || len(p) != 1 || p[0].Name != "grpc" || p[0].Port != 7443 {
		t.Errorf("the Service is %+v", svc.Spec)
	}
	if svc.Annotations["a"] != "1" || svc.Annotations[aranya.AnnotationUID] != "1" || len(svc.OwnerReferences) != 0 {
		t.Errorf("the Service is %+v", svc.ObjectMeta)
	}
	if slice.Labels[discoveryv1.LabelServiceName] != "d" || slice.Endpoints[0].Addresses[0] != "192.0.2.1" || *slice.Ports[0].Name != "grpc" || *slice.Ports[0].Port != 7443 {
		t.Errorf("the EndpointSlice is %+v", slice)
	}
	w.Edge.Modify(device("d", "1", &aranya.ServiceSpec{Type: aranya.ServiceTypeLoadBalancer, Annotations: map[string]string{"a": "2"}}))
	w.Eventually("updated", func() bool {
		svc := w.service("d")
		_, former := svc.Annotations["b"]
		return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Annotations["a"] == "2" && !former
	})
	w.Edge.Modify(device("d", "1", &aranya.ServiceSpec{}))
	w.Eventually("only what others and aranya itself have set is left", func() bool {
		return maps.Equal(w.service("d").Annotations, map[string]string{"others": "stay", aranya.AnnotationUID: "1"})
	})
	// What somebody breaks is repaired.
	if err := w.Kube.CoreV1().Services("ns").Delete(w.Ctx, "d", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Eventually("made again", func() bool { return w.service("d") != nil })
	w.Edge.Modify(device("d", "1", nil))
	w.Eventually("removed", func() bool { return w.service("d") == nil })
}

func TestServiceGoesWithTheDevice(t *testing.T) {
	w := newWorld(t)
	w.Edge.Add(device("d", "1", &aranya.ServiceSpec{}))
	w.Eventually("made", func() bool { return w.service("d") != nil && w.slice("d-grpc") != nil })
	w.Edge.Delete(device("d", "1", &aranya.ServiceSpec{}))
	w.Eventually("removed", func() bool { return w.service("d") == nil })
}

// own is a Service that was made for a device.
func own(name, uid string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, Annotations: map[string]string{aranya.AnnotationUID: uid},
		Labels: map[string]string{aranya.LabelName: name, aranya.LabelNamespace: "ns"},
	}}
}

// Former versions named the EdgeDevice as the owner.
func TestServiceLosesItsOwner(t *testing.T) {
	svc := own("d", "1")
	svc.OwnerReferences = []metav1.OwnerReference{
		{APIVersion: aranya.SchemeGroupVersion.String(), Kind: "EdgeDevice", Name: "d", UID: "1"}, {APIVersion: "v1", Kind: "ConfigMap", Name: "others", UID: "2"},
	}
	w := newWorld(t, svc)
	w.Edge.Add(device("d", "1", &aranya.ServiceSpec{}))
	w.Eventually("only the owner that others have set is left", func() bool {
		owners := w.service("d").OwnerReferences
		return len(owners) == 1 && owners[0].Kind == "ConfigMap"
	})
}

func TestServiceOfAFormerDevice(t *testing.T) {
	w := newWorld(t, own("d", "0"))
	w.Edge.Add(device("d", "1", &aranya.ServiceSpec{}))
	w.Eventually("replaced", func() bool { svc := w.service("d"); return svc != nil && svc.Annotations[aranya.AnnotationUID] == "1" })
}

func TestForeignServiceIsNotTouched(t *testing.T) {
	for name, foreign := range map[string]*corev1.Service{
		"of a user":                   {Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x"}}},
		"copy of that of a device":    own("c", "0"),
		"copy from another namespace": own("d", "0"),
	} {
		t.Run(name, func(t *testing.T) {
			if foreign.Name == "d" {
				foreign.Labels[aranya.LabelNamespace] = "elsewhere"
			}
			foreign.Namespace, foreign.Name = "ns", "d"
			w := newWorld(t, foreign.DeepCopy())
			w.Edge.Add(device("d", "1", &aranya.ServiceSpec{}))
			w.Eventually("the conflict is told", func() bool {
				list, err := w.Kube.CoreV1().Events("ns").List(w.Ctx, metav1.ListOptions{})
				return err == nil && len(list.Items) == 1 && list.Items[0].Reason == ReasonConflict
			})
			w.Edge.Delete(device("d", "1", &aranya.ServiceSpec{}))
			w.Edge.Add(device("e", "2", &aranya.ServiceSpec{}))
			w.Eventually("others get theirs", func() bool { return w.service("e") != nil })
			if svc := w.service("d"); !apiequality.Semantic.DeepEqual(svc, foreign) {
				t.Errorf("the foreign Service is now %+v", svc)
			}
		})
	}
}

// An EndpointSlice of a user that has the name of aranya's stays, also when the Service goes.
func TestForeignEndpointSliceIsNotTouched(t *testing.T) {
	foreign := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d-grpc", UID: "foreign"}}
	w := newWorld(t, foreign)
	for range 2 { // with what follows for a device nothing is left to be done for the one before
		w.Edge.Add(device("d", "1", &aranya.ServiceSpec{}))
		w.Eventually("made", func() bool { return w.service("d") != nil })
		w.Edge.Delete(device("d", "1", &aranya.ServiceSpec{}))
		w.Eventually("removed", func() bool { return w.service("d") == nil })
	}
	for _, a := range w.Kube.Actions() {
		if a.GetResource().Resource == "endpointslices" && (a.GetVerb() == "delete" || a.GetVerb() == "update") {
			t.Errorf("%s of the foreign EndpointSlice", a.GetVerb())
		}
	}
}

// While the database of aranya is restored, what leads to its devices stays.
func TestServicesOutliveAnEmptyDatabase(t *testing.T) {
	made := func(name string, created time.Time) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(created),
			Annotations: map[string]string{aranya.AnnotationUID: "u"}, Labels: map[string]string{aranya.LabelName: name, aranya.LabelNamespace: "ns"},
		}}
	}
	now := time.Now()
	w := newWorld(t, made("before", now.Add(-time.Hour)), made("since", now.Add(time.Hour)))
	w.Eventually("what was made since is removed", func() bool { return w.service("since") == nil })
	if w.service("before") == nil {
		t.Error("what was there before is removed")
	}
	w.Edge.Add(device("before", "another", &aranya.ServiceSpec{}))
	w.Eventually("it is replaced for another device", func() bool {
		svc := w.service("before")
		return svc != nil && svc.Annotations[aranya.AnnotationUID] == "another"
	})
}

package direct

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	typed "arhat.dev/aranya/pkg/generated/clientset/versioned/typed/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/registry/edgedevice"
	"arhat.dev/aranya/pkg/registry/edgedevice/storagetest"
)

// newDevices returns a client of storage with a watch cache over an etcd of its own. Calls that are not
// served by it end up in a clientset without objects.
func newDevices(t *testing.T) (*edgedevice.Storage, typed.EdgeDeviceInterface) {
	t.Helper()
	codec, _, err := edgedevice.NewStorageCodec(runtime.ContentTypeProtobuf)
	if err != nil {
		t.Fatal(err)
	}
	storage, err := edgedevice.NewStorage(scheme.Scheme, storagetest.Options(t, codec))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(storage.EdgeDevice.Destroy)
	storagetest.WaitReady(t, storage.EdgeDevice.Store)
	return storage, New(fake.NewClientset(), storage).AranyaV1alpha1().EdgeDevices("edge")
}

// requestContext is that of a call to the storage.
func requestContext(ctx context.Context) context.Context {
	return (&devices{namespace: "edge"}).context(ctx)
}

// store stores a device that somebody manages.
func store(t *testing.T, storage *edgedevice.Storage, name string) {
	t.Helper()
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"site": "a"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl", Operation: metav1.ManagedFieldsOperationApply}},
	}}
	ed.Spec.Connectivity.Method, ed.Spec.Node.NamespaceTaint = aranya.ConnectivityGRPC, aranya.NamespaceTaintNoSchedule
	if _, err := storage.EdgeDevice.Create(requestContext(t.Context()), ed, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestUpdate(t *testing.T) {
	storage, devices := newDevices(t)
	store(t, storage, "d1")
	ctx := t.Context()
	ed, err := devices.Get(ctx, "d1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stale := ed.DeepCopy()

	ed.ManagedFields = nil // as informers keep it
	ed.Labels = nil        // not part of the status
	ed.Status.Phase = v1alpha1.EdgeDeviceOnline
	ed.Status.Certificate = &v1alpha1.CertificateStatus{
		SerialNumber: "5", PublicKeySHA256: strings.Repeat("a", 64), NotAfter: metav1.NewTime(time.Now().Add(time.Hour)),
	}
	written, err := devices.UpdateStatus(ctx, ed, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if written.Status.Phase != v1alpha1.EdgeDeviceOnline || written.Status.Certificate == nil {
		t.Errorf("status: %+v", written.Status)
	}
	if written.Labels["site"] != "a" || len(written.ManagedFields) != 1 || written.ManagedFields[0].Manager != "kubectl" {
		t.Errorf("an update of the status changed the metadata: %+v", written.ObjectMeta)
	}

	for what, update := range map[string]func() error{
		"status": func() error { _, err := devices.UpdateStatus(ctx, stale, metav1.UpdateOptions{}); return err },
		"spec":   func() error { _, err := devices.Update(ctx, stale, metav1.UpdateOptions{}); return err },
	} {
		stale.Status.Phase, stale.Labels = v1alpha1.EdgeDeviceOffline, map[string]string{"site": "b"}
		if err := update(); !apierrors.IsConflict(err) {
			t.Errorf("update of the %s of what has changed since: %v", what, err)
		}
	}
	former := written.DeepCopy()
	former.UID, former.Status.Phase = "former", v1alpha1.EdgeDeviceOffline
	if _, err := devices.UpdateStatus(ctx, former, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of the status of a former device: %v", err)
	}
	invalid := written.DeepCopy()
	invalid.Status.Phase = "Sleepy"
	if _, err := devices.UpdateStatus(ctx, invalid, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("update with a phase that does not exist: %v", err)
	}

	written.Finalizers = nil
	got, err := devices.Update(ctx, written, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Finalizers) > 0 || got.Status.Phase != v1alpha1.EdgeDeviceOnline {
		t.Errorf("update of the finalizers: %+v", got)
	}
	if _, err := devices.Get(ctx, "no", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get of what does not exist: %v", err)
	}
}

// TestLastFinalizer takes the last finalizer off a device that is being deleted.
func TestLastFinalizer(t *testing.T) {
	storage, devices := newDevices(t)
	store(t, storage, "d1")
	ctx := t.Context()
	get := func() *v1alpha1.EdgeDevice {
		t.Helper()
		ed, err := devices.Get(ctx, "d1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return ed
	}
	ed := get()
	ed.Finalizers = []string{"arhat.dev/a", "arhat.dev/b"}
	if _, err := devices.Update(ctx, ed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	server := requestContext(ctx)
	if _, _, err := storage.EdgeDevice.Delete(server, "d1", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	stale := get()
	if ed = get(); ed.DeletionTimestamp == nil {
		t.Fatal("it is not being deleted")
	}
	ed.Finalizers = ed.Finalizers[1:]
	if _, err := devices.Update(ctx, ed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ed = get()
	former := ed.DeepCopy()
	former.UID = "former"
	for what, d := range map[string]*v1alpha1.EdgeDevice{"that has changed since": stale, "of a former device": former} {
		d.Finalizers = nil
		if _, err := devices.Update(ctx, d, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("the last finalizer of one %s: %v", what, err)
		}
	}
	ed.Finalizers = nil
	if _, err := devices.Update(ctx, ed, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error("tried only:", err)
	}
	get()
	if _, err := devices.Update(ctx, ed, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := devices.Get(ctx, "d1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := devices.Update(ctx, ed, metav1.UpdateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("once more: %v", err)
	}
}

// TestWatch lists and watches as a reflector does, with so many watches that the cache shares objects
// between them.
func TestWatch(t *testing.T) {
	storage, devices := newDevices(t)
	store(t, storage, "d1")
	list, err := devices.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.ResourceVersion == "" || list.Items[0].Name != "d1" {
		t.Fatalf("list: %+v", list)
	}
	const watches = 5
	var all []watch.Interface
	for range watches {
		yes := true
		w, err := devices.Watch(t.Context(), metav1.ListOptions{
			SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		all = append(all, w)
	}
	for _, w := range all { // before the second: all of them are to be told of it
		if first := next(t, w); first != "ADDED d1" {
			t.Errorf("the watch begins with %s", first)
		}
		if mark := next(t, w); mark != "BOOKMARK true" {
			t.Errorf("after the initial events came %s", mark)
		}
	}
	store(t, storage, "d2")
	for _, w := range all {
		for event := next(t, w); event != "ADDED d2"; event = next(t, w) {
			if event[:8] != "BOOKMARK" {
				t.Errorf("unexpected event %s", event)
			}
		}
	}
}

// next describes the next event.
func next(t *testing.T, w watch.Interface) string {
	t.Helper()
	select {
	case event, ok := <-w.ResultChan():
		ed, isDevice := event.Object.(*v1alpha1.EdgeDevice)
		switch {
		case !ok || !isDevice:
			t.Fatalf("event %+v", event)
		case event.Type == watch.Bookmark:
			return "BOOKMARK " + ed.Annotations[metav1.InitialEventsAnnotationKey]
		}
		return string(event.Type) + " " + ed.Name
	case <-time.After(time.Minute):
		t.Fatal("no event came")
	}
	return ""
}

package edgedevice

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/registry/edgedevice/storagetest"
)

// links is a LiveStatus for the devices of the given names.
type links map[string]bool

func (l links) Overlay(device *aranya.EdgeDevice) {
	if !l[device.Name] {
		return
	}
	now := metav1.Now()
	device.Status.Phase = aranya.EdgeDeviceOnline
	device.Status.LastSeen = &now
	device.Status.Link = &aranya.LinkStatus{Method: "grpc", BytesIn: 42}
	// Also into what the stored object may share with the watch cache.
	for i := range device.Status.Conditions {
		device.Status.Conditions[i].Message = "overlaid"
	}
}

// newTestStorage returns storage with a watch cache over an etcd of its own, and a context for it.
func newTestStorage(t *testing.T, live LiveStatus) (*Storage, context.Context) {
	t.Helper()
	codec, _, err := NewStorageCodec(runtime.ContentTypeProtobuf)
	if err != nil {
		t.Fatal(err)
	}
	storage, err := NewStorage(scheme.Scheme, storagetest.Options(t, codec))
	if err != nil {
		t.Fatal(err)
	}
	storage.EdgeDevice.SetLiveStatus(live)
	t.Cleanup(storage.EdgeDevice.Destroy)
	storagetest.WaitReady(t, storage.EdgeDevice.Store)
	ctx := genericapirequest.WithNamespace(t.Context(), "edge")
	return storage, genericapirequest.WithUser(ctx, &user.DefaultInfo{Name: "somebody"})
}

func (s *Storage) mustCreate(ctx context.Context, t *testing.T, device *aranya.EdgeDevice) *aranya.EdgeDevice {
	t.Helper()
	obj, err := s.EdgeDevice.Create(ctx, device, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*aranya.EdgeDevice)
}

// update changes a device through a storage: the main one or that of the status.
func update(ctx context.Context, updater rest.Updater, name string, change func(*aranya.EdgeDevice)) (*aranya.EdgeDevice, error) {
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		device := old.(*aranya.EdgeDevice).DeepCopy()
		change(device)
		return device, nil
	})
	obj, _, err := updater.Update(ctx, name, info, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc,
		false, &metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*aranya.EdgeDevice), nil
}

func deviceNames(t *testing.T, obj runtime.Object) []string {
	t.Helper()
	result := []string{}
	for _, device := range obj.(*aranya.EdgeDeviceList).Items {
		result = append(result, device.Name)
	}
	slices.Sort(result)
	return result
}

func TestStorageKeepsSpecAndStatusApart(t *testing.T) {
	storage, ctx := newTestStorage(t, nil)
	device := newDevice(t, "device-1")
	device.Status.AgentVersion = "forged"
	created := storage.mustCreate(ctx, t, device)
	want := aranya.EdgeDeviceStatus{
		Phase: aranya.EdgeDevicePending, ObservedGeneration: 1,
		Conditions: v1alpha1.InitialConditions("edge", "device-1", false, 1, metav1.Time{}),
	}
	if !cmp.Equal(created.Status, want, cmpopts.IgnoreFields(metav1.Condition{}, "LastTransitionTime")) {
		t.Errorf("a new device has status %+v, want %+v", created.Status, want)
	}
	if created.Generation != 1 {
		t.Errorf("a new device has generation %d, want 1", created.Generation)
	}

	changed, err := update(ctx, storage.EdgeDevice, "device-1", func(d *aranya.EdgeDevice) {
		d.Spec.Node.Unschedulable = true
		d.Status.AgentVersion = "forged"
	})
	if err != nil {
		t.Fatal(err)
	}
	if changed.Generation != 2 || !changed.Spec.Node.Unschedulable || changed.Status.AgentVersion != "" {
		t.Errorf("after an update of the spec: generation %d, unschedulable %t, agentVersion %q",
			changed.Generation, changed.Spec.Node.Unschedulable, changed.Status.AgentVersion)
	}

	changed, err = update(ctx, storage.Status, "device-1", func(d *aranya.EdgeDevice) {
		d.Spec.Node.Unschedulable = false
		d.Status.AgentVersion = "v1"
	})
	if err != nil {
		t.Fatal(err)
	}
	if changed.Generation != 2 || !changed.Spec.Node.Unschedulable || changed.Status.AgentVersion != "v1" {
		t.Errorf("after an update of the status: generation %d, unschedulable %t, agentVersion %q",
			changed.Generation, changed.Spec.Node.Unschedulable, changed.Status.AgentVersion)
	}

	_, err = update(ctx, storage.Status, "device-2", func(*aranya.EdgeDevice) {})
	if !errors.IsNotFound(err) {
		t.Errorf("an update of the status of an unknown device returns %v, want not found", err)
	}
}

func TestStorageRefusesInvalidDevices(t *testing.T) {
	storage, ctx := newTestStorage(t, nil)
	device := newDevice(t, "device-1")
	device.Spec.Connectivity.Method = "coap"
	_, err := storage.EdgeDevice.Create(ctx, device, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if !errors.IsInvalid(err) {
		t.Errorf("creating an invalid device returns %v", err)
	}
	storage.mustCreate(ctx, t, newDevice(t, "device-1"))
	_, err = update(ctx, storage.EdgeDevice, "device-1", func(d *aranya.EdgeDevice) { d.Spec.Connectivity.Method = "coap" })
	if !errors.IsInvalid(err) {
		t.Errorf("updating to an invalid device returns %v", err)
	}
	_, err = update(ctx, storage.Status, "device-1", func(d *aranya.EdgeDevice) { d.Status.Phase = "Lost" })
	if !errors.IsInvalid(err) {
		t.Errorf("updating to an invalid status returns %v", err)
	}
}

// TestStorageOverlaysReads reads concurrently: under -race it fails if two reads share what the overlay
// changes.
func TestStorageOverlaysReads(t *testing.T) {
	storage, ctx := newTestStorage(t, links{"online": true})
	// A read of at least this version comes from the watch cache.
	var version string
	for _, name := range []string{"online", "offline"} {
		storage.mustCreate(ctx, t, newDevice(t, name))
		device, err := update(ctx, storage.Status, name, func(d *aranya.EdgeDevice) {
			d.Status.Phase = aranya.EdgeDeviceOffline
			d.Status.Conditions = []metav1.Condition{{
				Type: "Connected", Status: "False", Reason: "LinkLost", Message: "stored", LastTransitionTime: metav1.Now(),
			}}
		})
		if err != nil {
			t.Fatal(err)
		}
		version = device.ResourceVersion
	}

	check := func(device *aranya.EdgeDevice) error {
		want := aranya.EdgeDeviceOffline
		if device.Name == "online" {
			want = aranya.EdgeDeviceOnline
		}
		if device.Status.Phase != want || (device.Status.Link != nil) != (want == aranya.EdgeDeviceOnline) {
			return fmt.Errorf("%s reads as %s with link %v", device.Name, device.Status.Phase, device.Status.Link)
		}
		return nil
	}
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for _, getter := range []rest.Getter{storage.EdgeDevice, storage.Status} {
				for _, name := range []string{"online", "offline"} {
					obj, err := getter.Get(ctx, name, &metav1.GetOptions{ResourceVersion: version})
					if err != nil {
						t.Error(err)
						return
					}
					if err := check(obj.(*aranya.EdgeDevice)); err != nil {
						t.Error(err)
					}
				}
			}
			obj, err := storage.EdgeDevice.List(ctx, &internalversion.ListOptions{ResourceVersion: version})
			if err != nil {
				t.Error(err)
				return
			}
			items := obj.(*aranya.EdgeDeviceList).Items
			if len(items) != 2 {
				t.Errorf("list has %d devices, want 2", len(items))
			}
			for i := range items {
				if err := check(&items[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Wait()

	obj, err := storage.EdgeDevice.Store.Get(ctx, "online", &metav1.GetOptions{ResourceVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	stored := obj.(*aranya.EdgeDevice).Status
	if stored.Phase != aranya.EdgeDeviceOffline || stored.Link != nil || stored.Conditions[0].Message != "stored" {
		t.Errorf("reading changed the watch cache: %+v", stored)
	}
}

// TestStorageNeverStoresLiveFields writes back what was read, as a careless controller would.
func TestStorageNeverStoresLiveFields(t *testing.T) {
	storage, ctx := newTestStorage(t, links{"device-1": true})
	storage.mustCreate(ctx, t, newDevice(t, "device-1"))
	obj, err := storage.EdgeDevice.Get(ctx, "device-1", &metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	read := obj.(*aranya.EdgeDevice)
	if read.Status.Link.BytesIn != 42 {
		t.Fatalf("no live status was read: %+v", read.Status)
	}
	changed, err := update(ctx, storage.Status, "device-1", func(d *aranya.EdgeDevice) { d.Status = read.Status })
	if err != nil {
		t.Fatal(err)
	}
	if changed.Status.Link != nil {
		t.Errorf("live fields were stored: %+v", changed.Status.Link)
	}
}

func TestStorageSelectsFields(t *testing.T) {
	storage, ctx := newTestStorage(t, nil)
	storage.mustCreate(ctx, t, newDevice(t, "a"))
	b := newDevice(t, "b")
	b.Labels = map[string]string{"site": "north"}
	b.Spec.Connectivity.Method = aranya.ConnectivityMQTT
	b.Spec.Connectivity.MQTTConfig = &aranya.MQTTConfig{
		MessageNamespace: "/m", Server: "broker:1883", Version: aranya.MQTTVersion311, Transport: aranya.MQTTTransportTCP,
	}
	storage.mustCreate(ctx, t, b)
	last, err := update(ctx, storage.Status, "b", func(d *aranya.EdgeDevice) {
		d.Status.Phase, d.Status.AgentVersion = aranya.EdgeDeviceOffline, "v2"
	})
	if err != nil {
		t.Fatal(err)
	}

	for _, tc := range []struct {
		field, label string
		want         []string
	}{
		{want: []string{"a", "b"}},
		{field: "metadata.name=a", want: []string{"a"}},
		{field: "metadata.namespace=edge", want: []string{"a", "b"}},
		{field: "spec.connectivity.method=mqtt", want: []string{"b"}},
		{field: "spec.connectivity.method!=mqtt", want: []string{"a"}},
		{field: "status.phase=Pending", want: []string{"a"}},
		{field: "status.phase=Offline,spec.connectivity.method=grpc", want: []string{}},
		{field: "status.agentVersion=v2", want: []string{"b"}},
		{field: "status.agentVersion=", want: []string{"a"}},
		{label: "site=north", want: []string{"b"}},
		{label: "site=north", field: "status.phase=Pending", want: []string{}},
	} {
		// From etcd, and from the indices of the watch cache.
		for _, version := range []string{"", last.ResourceVersion} {
			t.Run(tc.label+tc.field+" "+version, func(t *testing.T) {
				options := &internalversion.ListOptions{
					FieldSelector:   fields.ParseSelectorOrDie(tc.field),
					ResourceVersion: version,
				}
				if options.LabelSelector, err = labels.Parse(tc.label); err != nil {
					t.Fatal(err)
				}
				obj, err := storage.EdgeDevice.List(ctx, options)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, deviceNames(t, obj)); diff != "" {
					t.Errorf("selected devices differ (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestStorageWatchesByField(t *testing.T) {
	storage, ctx := newTestStorage(t, links{"a": true, "b": true})
	storage.mustCreate(ctx, t, newDevice(t, "a"))
	last := storage.mustCreate(ctx, t, newDevice(t, "b"))

	expected := map[string][]string{
		"metadata.name=a":      {"MODIFIED a Offline", "MODIFIED a Online"},
		"status.phase=Offline": {"ADDED b Offline", "ADDED a Offline", "DELETED a Offline"},
	}
	watches := map[string]watch.Interface{}
	for selector := range expected {
		w, err := storage.EdgeDevice.Watch(ctx, &internalversion.ListOptions{
			FieldSelector: fields.ParseSelectorOrDie(selector), ResourceVersion: last.ResourceVersion,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		watches[selector] = w
	}
	for _, step := range []struct {
		name  string
		phase aranya.EdgeDevicePhase
	}{{"b", aranya.EdgeDeviceOffline}, {"a", aranya.EdgeDeviceOffline}, {"a", aranya.EdgeDeviceOnline}} {
		if _, err := update(ctx, storage.Status, step.name, func(d *aranya.EdgeDevice) { d.Status.Phase = step.phase }); err != nil {
			t.Fatal(err)
		}
	}
	for selector, want := range expected {
		for _, event := range want {
			if got := nextEvent(t, watches[selector]); got != event {
				t.Errorf("watch of %s: got %q, want %q", selector, got, event)
			}
		}
	}
}

// nextEvent describes the next event of a watch.
func nextEvent(t *testing.T, w watch.Interface) string {
	t.Helper()
	select {
	case event := <-w.ResultChan():
		obj := event.Object
		// The watch cache shares one encoding among all watchers.
		if cached, ok := obj.(runtime.CacheableObject); ok {
			obj = cached.GetObject()
		}
		device, ok := obj.(*aranya.EdgeDevice)
		if !ok {
			t.Fatalf("event %s has a %T", event.Type, obj)
		}
		if device.Status.Link != nil {
			t.Errorf("a watch must show what is stored, got link %v", device.Status.Link)
		}
		return fmt.Sprintf("%s %s %s", event.Type, device.Name, device.Status.Phase)
	case <-time.After(wait.ForeverTestTimeout):
		t.Fatal("no event came")
		return ""
	}
}

package edgedevice

import (
	"context"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	testingclock "k8s.io/utils/clock/testing"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// reads counts the reads that go to etcd. In place of the watch cache it can remember an EdgeDevice.
type reads struct {
	storage.Interface
	etcd       int
	remembered *aranya.EdgeDevice
}

func (r *reads) Get(ctx context.Context, key string, options storage.GetOptions, object runtime.Object) error {
	if options.ResourceVersion == "" {
		r.etcd++
	} else if r.remembered != nil {
		*object.(*aranya.EdgeDevice) = *r.remembered
		return nil
	}
	return r.Interface.Get(ctx, key, options, object)
}

// countReads counts those of deletions and of the store.
func countReads(s *Storage) *reads {
	r := &reads{Interface: s.EdgeDevice.Store.Storage.Storage}
	s.EdgeDevice.Store.Storage.Storage = r
	s.EdgeDevice.deleter = deleter(s.EdgeDevice.Store)
	return r
}

// waitCached waits until the watch cache knows an EdgeDevice as it is.
func waitCached(ctx context.Context, t *testing.T, s *Storage, device *aranya.EdgeDevice) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(ctx, time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		object, err := s.EdgeDevice.Get(ctx, device.Name, &metav1.GetOptions{ResourceVersion: "0"})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil && object.(*aranya.EdgeDevice).ResourceVersion == device.ResourceVersion, err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestDeletionOfWhatIsFinalizedReadsMemory(t *testing.T) {
	storage, ctx := newTestStorage(t, nil)
	reads := countReads(storage)
	remove := func(name string) (*aranya.EdgeDevice, bool, int, error) {
		before := reads.etcd
		object, gone, err := storage.EdgeDevice.Delete(ctx, name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
		device, _ := object.(*aranya.EdgeDevice)
		return device, gone, reads.etcd - before, err
	}

	created := storage.mustCreate(ctx, t, newDevice(t, "finalized"))
	waitCached(ctx, t, storage, created)
	device, gone, n, err := remove("finalized")
	if err != nil || gone || n != 0 || device.DeletionTimestamp == nil || device.UID != created.UID {
		t.Errorf("deletion: %+v, gone %v, %d reads, error %v", device, gone, n, err)
	}
	if object, err := storage.EdgeDevice.Get(ctx, "finalized", &metav1.GetOptions{ResourceVersion: "0"}); err != nil || object.(*aranya.EdgeDevice).UID != created.UID {
		t.Errorf("in the watch cache: %v, error %v", object, err)
	}
	waitCached(ctx, t, storage, device)
	if device, gone, n, err := remove("finalized"); err != nil || gone || n == 0 || device.DeletionTimestamp == nil {
		t.Errorf("second deletion: %+v, gone %v, %d reads, error %v", device, gone, n, err)
	}

	free := newDevice(t, "free")
	free.Spec.Node.Disabled = true
	waitCached(ctx, t, storage, storage.mustCreate(ctx, t, free))
	if _, gone, n, err := remove("free"); err != nil || !gone || n == 0 {
		t.Errorf("deletion without finalizers: gone %v, %d reads, error %v", gone, n, err)
	}
	if _, _, _, err := remove("unknown"); !apierrors.IsNotFound(err) {
		t.Errorf("deletion of what is not there: %v", err)
	}
}

// Whatever the watch cache has to say of yesterday, what is stored decides.
func TestDeletionWithOutdatedMemory(t *testing.T) {
	storage, ctx := newTestStorage(t, nil)
	reads := countReads(storage)
	former := newDevice(t, "device")
	former.UID, former.ResourceVersion, former.Namespace, former.Finalizers = "former", "1", "edge", []string{v1alpha1.FinalizerNode}
	reads.remembered = former
	if _, _, err := storage.EdgeDevice.Delete(ctx, "device", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("deletion of what is gone: %v", err)
	}

	free := newDevice(t, "device")
	free.Spec.Node.Disabled = true
	storage.mustCreate(ctx, t, free)
	precondition := metav1.NewUIDPreconditions("former")
	if _, _, err := storage.EdgeDevice.Delete(ctx, "device", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{Preconditions: precondition}); !apierrors.IsConflict(err) {
		t.Errorf("deletion of a former EdgeDevice: %v", err)
	}
	if _, gone, err := storage.EdgeDevice.Delete(ctx, "device", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil || !gone {
		t.Errorf("deletion of what has no finalizer any more: gone %v, error %v", gone, err)
	}

	// The other way round: what has a finalizer by now stays.
	former.Finalizers = nil
	storage.mustCreate(ctx, t, newDevice(t, "device"))
	if object, gone, err := storage.EdgeDevice.Delete(ctx, "device", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil || gone || object.(*aranya.EdgeDevice).DeletionTimestamp == nil {
		t.Errorf("deletion of what has a finalizer now: %v, gone %v, error %v", object, gone, err)
	}
}

// A precondition that is met is not refused because the watch cache lags behind.
func TestDeletionWithPreconditions(t *testing.T) {
	for name, precondition := range map[string]func(current *aranya.EdgeDevice) *metav1.Preconditions{
		"UID": func(d *aranya.EdgeDevice) *metav1.Preconditions { return &metav1.Preconditions{UID: &d.UID} },
		"resourceVersion": func(d *aranya.EdgeDevice) *metav1.Preconditions {
			return &metav1.Preconditions{ResourceVersion: &d.ResourceVersion}
		},
	} {
		t.Run(name, func(t *testing.T) {
			storage, ctx := newTestStorage(t, nil)
			reads := countReads(storage)
			current := storage.mustCreate(ctx, t, newDevice(t, "device"))
			reads.remembered = current.DeepCopy()
			reads.remembered.UID, reads.remembered.ResourceVersion = "former", "1"
			object, gone, err := storage.EdgeDevice.Delete(ctx, "device", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{Preconditions: precondition(current)})
			if err != nil || gone || object.(*aranya.EdgeDevice).DeletionTimestamp == nil {
				t.Errorf("deletion of what is as it should be: %v, gone %v, error %v", object, gone, err)
			}
		})
	}
}

func TestRecent(t *testing.T) {
	storage, ctx := newTestStorage(t, nil)
	reads := countReads(storage)
	clock := testingclock.NewFakePassiveClock(time.Now())
	recent := storage.EdgeDevice.Recent().(recentDevices)
	recent.clock = clock
	created := storage.mustCreate(ctx, t, newDevice(t, "device"))
	waitCached(ctx, t, storage, created)
	read := func(want int) {
		t.Helper()
		before := reads.etcd
		object, err := recent.Get(ctx, "device", &metav1.GetOptions{})
		if err != nil || object.(*aranya.EdgeDevice).UID != created.UID || reads.etcd-before != want {
			t.Errorf("%v, %d reads, want %d, error %v", object, reads.etcd-before, want, err)
		}
	}
	read(0)
	clock.SetTime(created.CreationTimestamp.Add(recently))
	read(1)
	clock.SetTime(created.CreationTimestamp.Time)
	read(0)
	deleted, _, err := storage.EdgeDevice.Delete(ctx, "device", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waitCached(ctx, t, storage, deleted.(*aranya.EdgeDevice))
	read(1)
	if _, err := recent.Get(ctx, "unknown", &metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("of an EdgeDevice that does not exist: %v", err)
	}
}

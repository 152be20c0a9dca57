package edgedevice

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// recently is for how long an EdgeDevice is new.
const recently = 30 * time.Second

// Recent reads new EdgeDevices from the watch cache, and all others from etcd. The cache lags behind by some
// milliseconds: it can only be wrong about a new EdgeDevice if that was deleted and another made of its name.
func (r *REST) Recent() rest.Getter { return recentDevices{devices: r, clock: clock.RealClock{}} }

type recentDevices struct {
	devices *REST
	clock   clock.PassiveClock
}

// Get implements rest.Getter.
func (r recentDevices) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	if options.ResourceVersion == "" {
		cached := *options
		cached.ResourceVersion = "0"
		object, err := r.devices.Get(ctx, name, &cached)
		if device, ok := object.(*aranya.EdgeDevice); err == nil && ok &&
			device.DeletionTimestamp == nil && r.clock.Since(device.CreationTimestamp.Time) < recently {
			return device, nil
		}
	}
	return r.devices.Get(ctx, name, options)
}

// deleter is a store for deletions. The library first reads what is to be deleted from etcd, to see whether
// finalizers keep it, and then updates it by what the watch cache knows; if that is of yesterday the update
// fails and is made anew. An EdgeDevice that has finalizers according to the cache can do without the former.
func deleter(store *genericregistry.Store) *genericregistry.Store {
	forDeletion := *store
	forDeletion.Storage.Storage = finalizedFromMemory{store.Storage.Storage}
	return &forDeletion
}

type finalizedFromMemory struct{ storage.Interface }

// Get implements storage.Interface.
func (f finalizedFromMemory) Get(ctx context.Context, key string, options storage.GetOptions, object runtime.Object) error {
	if device, ok := object.(*aranya.EdgeDevice); ok && options.ResourceVersion == "" {
		cached := options
		cached.ResourceVersion = "0"
		if err := f.Interface.Get(ctx, key, cached, device); err == nil && len(device.Finalizers) > 0 && device.DeletionTimestamp == nil {
			// What lies below belongs to the watch cache.
			*device = *device.DeepCopy()
			return nil
		}
		*device = aranya.EdgeDevice{}
	}
	return f.Interface.Get(ctx, key, options, object)
}

// Delete implements rest.GracefulDeleter.
func (r *REST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if options != nil && options.Preconditions != nil {
		// They are first checked against what was read: not what the watch cache knew a moment ago.
		return r.Store.Delete(ctx, name, validate, options)
	}
	return r.deleter.Delete(ctx, name, validate, options)
}

package edgedevice

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// LiveStatus fills in what only the live link of a device knows.
type LiveStatus interface {
	// Overlay sets fields of obj.Status from the link of a connected device: phase, lastSeen, device, link,
	// usage and traffic; of one that is connected no more lastSeen, as long as that is not stored. It leaves the
	// status of another device alone, and changes nothing but the status. It is called on every read, concurrently,
	// and must not block. The object is the caller's own, so nothing that lives on may be put into it without a copy.
	Overlay(obj *aranya.EdgeDevice)
}

// Storage holds the storage of edgedevices and edgedevices/status.
type Storage struct {
	EdgeDevice *REST
	Status     *StatusREST
}

// NewStorage returns the storage of EdgeDevices. Without SetLiveStatus reads show what is stored.
func NewStorage(scheme *runtime.Scheme, optsGetter generic.RESTOptionsGetter) (*Storage, error) {
	strategy := newStrategy(scheme)
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &aranya.EdgeDevice{} },
		NewListFunc:               func() runtime.Object { return &aranya.EdgeDeviceList{} },
		PredicateFunc:             match,
		DefaultQualifiedResource:  aranya.Resource("edgedevices"),
		SingularQualifiedResource: aranya.Resource("edgedevice"),

		CreateStrategy:      strategy,
		UpdateStrategy:      strategy,
		DeleteStrategy:      strategy,
		ResetFieldsStrategy: strategy,

		TableConvertor: tableConvertor{},
	}
	options := &generic.StoreOptions{
		RESTOptions: optsGetter,
		AttrFunc:    GetAttrs,
		TriggerFunc: map[string]storage.IndexerFunc{"metadata.name": nameTrigger},
		Indexers:    indexers(),
	}
	if err := store.CompleteWithOptions(options); err != nil {
		return nil, fmt.Errorf("set up the storage of edgedevices: %w", err)
	}

	statusStore := *store
	statusStore.UpdateStrategy = statusStrategy{strategy}
	statusStore.ResetFieldsStrategy = statusStrategy{strategy}

	devices := &REST{Store: store, deleter: deleter(store)}
	return &Storage{
		EdgeDevice: devices,
		Status:     &StatusREST{devices: devices, store: &statusStore},
	}, nil
}

// REST is the storage of edgedevices. GET and LIST show the live status; WATCH shows what is stored.
type REST struct {
	*genericregistry.Store
	deleter *genericregistry.Store
	live    LiveStatus
}

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
	_ rest.CategoriesProvider = &REST{}
)

// ShortNames of the resource.
func (*REST) ShortNames() []string { return []string{"ed"} }

// Categories of the resource, for "kubectl get aranya".
func (*REST) Categories() []string { return []string{"aranya"} }

// SetLiveStatus has reads show the live status. It must be called before the first of them, if at all.
func (r *REST) SetLiveStatus(live LiveStatus) { r.live = live }

// Get returns an EdgeDevice with its live status.
func (r *REST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.Store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	if device, ok := obj.(*aranya.EdgeDevice); ok {
		r.overlay(device)
	}
	return obj, nil
}

// List returns the EdgeDevices that match, with their live status. Selectors see the stored status.
func (r *REST) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	obj, err := r.Store.List(ctx, options)
	if err != nil {
		return nil, err
	}
	if list, ok := obj.(*aranya.EdgeDeviceList); ok {
		for i := range list.Items {
			r.overlay(&list.Items[i])
		}
	}
	return obj, nil
}

// overlay puts the live status on a device that was read. Structures below it may belong to the watch
// cache, hence the copy of what is going to change.
func (r *REST) overlay(device *aranya.EdgeDevice) {
	if r.live == nil {
		return
	}
	device.Status = *device.Status.DeepCopy()
	r.live.Overlay(device)
}

// StatusREST is the storage of edgedevices/status.
type StatusREST struct {
	devices *REST
	store   *genericregistry.Store
}

var (
	_ rest.Patcher             = &StatusREST{}
	_ rest.ResetFieldsStrategy = &StatusREST{}
	_ rest.TableConvertor      = &StatusREST{}
)

// New returns an empty EdgeDevice.
func (*StatusREST) New() runtime.Object { return &aranya.EdgeDevice{} }

// Destroy does nothing: the store is shared with REST, which destroys it.
func (*StatusREST) Destroy() {}

// Get returns an EdgeDevice with its live status.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.devices.Get(ctx, name, options)
}

// Update changes the status of an EdgeDevice. It never creates one.
func (r *StatusREST) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo,
	createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc,
	_ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, objInfo, createValidation, updateValidation, false, options)
}

// GetResetFields names the fields that an update of the status does not change.
func (r *StatusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// ConvertToTable prints EdgeDevices as "kubectl get" shows them.
func (r *StatusREST) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}

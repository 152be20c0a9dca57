package direct

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	typed "arhat.dev/aranya/pkg/generated/clientset/versioned/typed/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/registry/edgedevice"
)

// Client is a versioned.Interface whose Get, List, Watch, Update and UpdateStatus of EdgeDevices go to
// the storage. Reads show what is stored, without the live status.
type Client struct {
	versioned.Interface
	storage *edgedevice.Storage
}

// New returns a Client of storage that uses loopback, which must act as the server, for all other calls.
func New(loopback versioned.Interface, storage *edgedevice.Storage) *Client {
	return &Client{Interface: loopback, storage: storage}
}

// AranyaV1alpha1 implements versioned.Interface.
func (c *Client) AranyaV1alpha1() typed.AranyaV1alpha1Interface {
	return group{c.Interface.AranyaV1alpha1(), c.storage}
}

type group struct {
	typed.AranyaV1alpha1Interface
	storage *edgedevice.Storage
}

// EdgeDevices implements typed.AranyaV1alpha1Interface.
func (g group) EdgeDevices(namespace string) typed.EdgeDeviceInterface {
	loopback := g.AranyaV1alpha1Interface.EdgeDevices(namespace)
	return &devices{EdgeDeviceInterface: loopback, namespace: namespace, storage: g.storage}
}

type devices struct {
	typed.EdgeDeviceInterface
	namespace string
	storage   *edgedevice.Storage
}

// server is who the calls come from.
var server = &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}}

func (d *devices) context(ctx context.Context) context.Context {
	return request.WithUser(request.WithNamespace(ctx, d.namespace), server)
}

// Get implements typed.EdgeDeviceInterface.
func (d *devices) Get(ctx context.Context, name string, options metav1.GetOptions) (*v1alpha1.EdgeDevice, error) {
	object, err := d.storage.EdgeDevice.Store.Get(d.context(ctx), name, &options)
	if err != nil {
		return nil, err
	}
	// The watch cache may be part of it.
	return external(object.DeepCopyObject())
}

// List implements typed.EdgeDeviceInterface.
func (d *devices) List(ctx context.Context, options metav1.ListOptions) (*v1alpha1.EdgeDeviceList, error) {
	internal, err := listOptions(&options)
	if err != nil {
		return nil, err
	}
	object, err := d.storage.EdgeDevice.Store.List(d.context(ctx), internal)
	if err != nil {
		return nil, err
	}
	list := &v1alpha1.EdgeDeviceList{}
	if err := scheme.Scheme.Convert(object.DeepCopyObject(), list, nil); err != nil {
		return nil, fmt.Errorf("convert EdgeDevices: %w", err)
	}
	return list, nil
}

// Watch implements typed.EdgeDeviceInterface.
func (d *devices) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	internal, err := listOptions(&options)
	if err != nil {
		return nil, err
	}
	w, err := d.storage.EdgeDevice.Watch(d.context(ctx), internal)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(event watch.Event) (watch.Event, bool) {
		object := event.Object
		if shared, ok := object.(runtime.CacheableObject); ok {
			object = shared.GetObject() // a copy
		}
		if _, ok := object.(*aranya.EdgeDevice); ok {
			converted, err := external(object)
			if err != nil {
				return watch.Event{}, false // impossible: it was converted when it was stored
			}
			object = converted
		}
		event.Object = object
		return event, true
	}), nil
}

// Update implements typed.EdgeDeviceInterface.
func (d *devices) Update(ctx context.Context, ed *v1alpha1.EdgeDevice, options metav1.UpdateOptions) (*v1alpha1.EdgeDevice, error) {
	if ed.DeletionTimestamp != nil && len(ed.Finalizers) == 0 && ed.ResourceVersion != "" {
		return ed, d.remove(ctx, ed, options)
	}
	return d.update(ctx, d.storage.EdgeDevice, ed, options)
}

// UpdateStatus implements typed.EdgeDeviceInterface.
func (d *devices) UpdateStatus(ctx context.Context, ed *v1alpha1.EdgeDevice, options metav1.UpdateOptions) (*v1alpha1.EdgeDevice, error) {
	return d.update(ctx, d.storage.Status, ed, options)
}

func (d *devices) update(ctx context.Context, storage rest.Updater, ed *v1alpha1.EdgeDevice, options metav1.UpdateOptions) (*v1alpha1.EdgeDevice, error) {
	internal := &aranya.EdgeDevice{}
	if err := scheme.Scheme.Convert(ed.DeepCopy(), internal, nil); err != nil {
		return nil, fmt.Errorf("convert EdgeDevice %s: %w", ed.Name, err)
	}
	object, _, err := storage.Update(d.context(ctx), ed.Name, rest.DefaultUpdatedObjectInfo(internal, keepManagedFields),
		rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &options)
	if err != nil {
		return nil, err
	}
	return external(object)
}

// remove deletes what no finalizer keeps any more. An update would come down to the same, but only after it had
// read from etcd what the watch cache knows. It fails with a conflict if the EdgeDevice has changed.
func (d *devices) remove(ctx context.Context, ed *v1alpha1.EdgeDevice, options metav1.UpdateOptions) error {
	ctx = d.context(ctx)
	store := d.storage.EdgeDevice.Store
	key, err := store.KeyFunc(ctx, ed.Name)
	if err != nil {
		return err
	}
	preconditions := &storage.Preconditions{UID: &ed.UID, ResourceVersion: &ed.ResourceVersion}
	err = store.Storage.Delete(ctx, key, &aranya.EdgeDevice{}, preconditions, rest.ValidateAllObjectFunc,
		dryrun.IsDryRun(options.DryRun), nil, storage.DeleteOptions{})
	return storeerr.InterpretDeleteError(err, aranya.Resource("edgedevices"), ed.Name)
}

// keepManagedFields is a rest.TransformFunc.
func keepManagedFields(_ context.Context, object, old runtime.Object) (runtime.Object, error) {
	ed, ok1 := object.(*aranya.EdgeDevice)
	stored, ok2 := old.(*aranya.EdgeDevice)
	if ok1 && ok2 {
		ed.ManagedFields = stored.ManagedFields
	}
	return object, nil
}

// external converts an object that may be kept.
func external(object runtime.Object) (*v1alpha1.EdgeDevice, error) {
	ed := &v1alpha1.EdgeDevice{}
	if err := scheme.Scheme.Convert(object, ed, nil); err != nil {
		return nil, fmt.Errorf("convert an EdgeDevice: %w", err)
	}
	return ed, nil
}

func listOptions(options *metav1.ListOptions) (*internalversion.ListOptions, error) {
	internal := &internalversion.ListOptions{}
	if err := internalversion.Convert_v1_ListOptions_To_internalversion_ListOptions(options, internal, nil); err != nil {
		return nil, fmt.Errorf("list EdgeDevices: %w", err)
	}
	return internal, nil
}

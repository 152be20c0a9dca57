package edgedevice

import (
	"context"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
)

// statusStrategy is how the status of an EdgeDevice is updated: the status and nothing else.
type statusStrategy struct {
	strategy
}

var _ rest.UpdateResetFieldsStrategy = statusStrategy{}

// GetResetFields names what server-side apply of the status must not let anybody own: what belongs to
// the user, and what is never stored.
func (statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		version: fieldpath.NewSet(
			fieldpath.MakePathOrDie("metadata"),
			fieldpath.MakePathOrDie("spec"),
			fieldpath.MakePathOrDie("status", "usage"),
			fieldpath.MakePathOrDie("status", "traffic"),
			fieldpath.MakePathOrDie("status", "link"),
		),
	}
}

func (statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	device, oldDevice := obj.(*aranya.EdgeDevice), old.(*aranya.EdgeDevice)
	device.Spec = oldDevice.Spec
	metav1.ResetObjectMetaForStatus(device, oldDevice)

	// The certificate decides who may connect as this device. Whoever may write a status must not
	// thereby be able to let another key in.
	if !apiequality.Semantic.DeepEqual(device.Status.Certificate, oldDevice.Status.Certificate) && !isServer(ctx) {
		device.Status.Certificate = oldDevice.Status.Certificate
		warning.AddWarning(ctx, "", "status.certificate: the change was ignored, only aranya writes this field")
	}
	dropLiveFields(&device.Status)
	if oldDevice.Status.Certificate == nil && device.Status.Certificate != nil {
		enrolled(device)
	}
}

// enrolled says what follows from the first certificate, in the same write.
func enrolled(device *aranya.EdgeDevice) {
	condition := v1alpha1.Enrolled()
	condition.ObservedGeneration = device.Generation
	meta.SetStatusCondition(&device.Status.Conditions, condition)
	if device.Status.Phase == aranya.EdgeDevicePending {
		device.Status.Phase = aranya.EdgeDeviceOffline
	}
}

func (statusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateEdgeDeviceStatusUpdate(obj.(*aranya.EdgeDevice), old.(*aranya.EdgeDevice))
}

func (statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// isServer tells whether the request comes from this server's own loopback client.
func isServer(ctx context.Context) bool {
	info, ok := genericapirequest.UserFrom(ctx)
	return ok && info.GetName() == user.APIServerUser
}

// dropLiveFields removes what exists on reads only and must not reach etcd, also when a client writes back
// a status that it read.
func dropLiveFields(status *aranya.EdgeDeviceStatus) {
	status.Link, status.Usage, status.Traffic = nil, nil, nil
}

package edgedevice

import (
	"context"
	"slices"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
)

// strategy is how users create, update and delete EdgeDevices: all but the status.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

var (
	_ rest.RESTDeleteStrategy              = strategy{}
	_ rest.CreateUpdateResetFieldsStrategy = strategy{}
)

// version is the key of the field sets: managed fields are kept per API version.
var version = fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String())

func newStrategy(typer runtime.ObjectTyper) strategy {
	return strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator}
}

func (strategy) NamespaceScoped() bool { return true }

// GetResetFields names what server-side apply must not let a user own here.
func (strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		version: fieldpath.NewSet(fieldpath.MakePathOrDie("status")),
	}
}

func (strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	device := obj.(*aranya.EdgeDevice)
	device.Generation = 1
	// What the controllers would write at once is there from the beginning: a thousand devices that are
	// created together cost two writes each less.
	device.Status = aranya.EdgeDeviceStatus{
		Phase:              aranya.EdgeDevicePending,
		Conditions:         v1alpha1.InitialConditions(device.Namespace, device.Name, device.Spec.Node.Disabled, device.Generation, metav1.Now()),
		ObservedGeneration: device.Generation,
	}
	if !device.Spec.Node.Disabled && !slices.Contains(device.Finalizers, v1alpha1.FinalizerNode) {
		device.Finalizers = append(device.Finalizers, v1alpha1.FinalizerNode)
	}
}

func (strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return validation.ValidateEdgeDevice(obj.(*aranya.EdgeDevice))
}

func (strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	return warnings(obj.(*aranya.EdgeDevice))
}

func (strategy) Canonicalize(runtime.Object) {}

func (strategy) AllowCreateOnUpdate(context.Context) bool { return false }

func (strategy) AllowUnconditionalUpdate(context.Context) bool { return true }

func (strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	device, oldDevice := obj.(*aranya.EdgeDevice), old.(*aranya.EdgeDevice)
	device.Status = oldDevice.Status
	device.Generation = oldDevice.Generation
	if !apiequality.Semantic.DeepEqual(device.Spec, oldDevice.Spec) {
		device.Generation++
	}
}

func (strategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validation.ValidateEdgeDeviceUpdate(obj.(*aranya.EdgeDevice), old.(*aranya.EdgeDevice))
}

func (strategy) WarningsOnUpdate(_ context.Context, obj, _ runtime.Object) []string {
	return warnings(obj.(*aranya.EdgeDevice))
}

// warnings tells about settings that are valid but will not do what one may think.
func warnings(device *aranya.EdgeDevice) []string {
	var result []string
	spec := &device.Spec
	if mqtt := spec.Connectivity.MQTTConfig; mqtt != nil {
		if mqtt.TLSSecretRef == nil && mqtt.ConnectPacket.Password != nil {
			result = append(result, "spec.connectivity.mqttConfig.tlsSecretRef: not set, so the password is sent in clear")
		}
	}
	if node := &spec.Node; node.Disabled &&
		(len(node.Labels) > 0 || len(node.Annotations) > 0 || len(node.Taints) > 0 || node.Unschedulable) {
		result = append(result, "spec.node: labels, annotations, taints and unschedulable have no effect while disabled is true")
	}
	return result
}

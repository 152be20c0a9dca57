package validation

import (
	"fmt"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// ValidateEdgeDevice checks a new EdgeDevice.
func ValidateEdgeDevice(device *aranya.EdgeDevice) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&device.ObjectMeta, true, ValidateEdgeDeviceName, field.NewPath("metadata"))
	return append(errs, validateSpec(&device.Spec, device.Name, field.NewPath("spec"))...)
}

// ValidateEdgeDeviceUpdate checks a changed EdgeDevice. A spec that did not change is not judged again:
// should the rules become stricter one day, then the finalizers of older devices can still be removed.
func ValidateEdgeDeviceUpdate(device, old *aranya.EdgeDevice) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&device.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	if apiequality.Semantic.DeepEqual(device.Spec, old.Spec) {
		return errs
	}
	return append(errs, validateSpec(&device.Spec, device.Name, field.NewPath("spec"))...)
}

// ValidateEdgeDeviceName checks the name of an EdgeDevice, or a prefix that a name is generated from.
// It is also the name of a Node, and the value of labels on it.
func ValidateEdgeDeviceName(name string, prefix bool) []string {
	msgs := apivalidation.NameIsDNSSubdomain(name, prefix)
	if len(name) > validation.LabelValueMaxLength {
		msgs = append(msgs, fmt.Sprintf("must be no more than %d characters: the name becomes the value of the "+
			"Node's labels arhat.dev/name and kubernetes.io/hostname", validation.LabelValueMaxLength))
	}
	return msgs
}

func validateSpec(spec *aranya.EdgeDeviceSpec, name string, path *field.Path) field.ErrorList {
	errs := validateConnectivity(&spec.Connectivity, name, path.Child("connectivity"))
	errs = append(errs, validateNode(&spec.Node, path.Child("node"))...)
	return append(errs, validatePod(&spec.Pod, path.Child("pod"))...)
}

// validateSecretRef checks a reference to a Secret; nil is fine.
func validateSecretRef(ref *aranya.LocalSecretReference, path *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	path = path.Child("name")
	if ref.Name == "" {
		return field.ErrorList{field.Required(path, "name a Secret in the namespace of the EdgeDevice, or remove the reference")}
	}
	return invalid(path, ref.Name, apivalidation.NameIsDNSSubdomain(ref.Name, false))
}

// invalid turns the messages of a check into one error, or none.
func invalid(path *field.Path, value any, msgs []string) field.ErrorList {
	if len(msgs) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, strings.Join(msgs, "; "))}
}

// inRange checks an optional number.
func inRange(value *int32, low, high int, path *field.Path) field.ErrorList {
	if value == nil {
		return nil
	}
	return invalid(path, *value, validation.IsInRange(int(*value), low, high))
}

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the name of the API group.
const GroupName = "aranya.arhat.dev"

// SchemeGroupVersion is the group and version of the types in this package.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

// Resource qualifies a resource name with the group.
func Resource(resource string) schema.GroupResource {
	return SchemeGroupVersion.WithResource(resource).GroupResource()
}

// Kind qualifies a kind with the group.
func Kind(kind string) schema.GroupKind {
	return SchemeGroupVersion.WithKind(kind).GroupKind()
}

var (
	// SchemeBuilder collects what AddToScheme registers; the generated code adds to it.
	SchemeBuilder      runtime.SchemeBuilder
	localSchemeBuilder = &SchemeBuilder
	// AddToScheme registers the types, defaults and conversions of this package.
	AddToScheme = localSchemeBuilder.AddToScheme
)

func init() {
	// Only what is written by hand: generated files register themselves, so that this package
	// compiles without them.
	localSchemeBuilder.Register(addKnownTypes, addDefaultingFuncs, addFieldLabelConversionFuncs)
}

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(SchemeGroupVersion,
		&EdgeDevice{},
		&EdgeDeviceList{},
		&EdgeDeviceExecOptions{},
		&EdgeDeviceAttachOptions{},
		&EdgeDeviceLogOptions{},
		&EdgeDevicePortForwardOptions{},
		&EdgeDeviceProxyOptions{},
		&EnrollmentToken{},
	)
	metav1.AddToGroupVersion(scheme, SchemeGroupVersion)
	return nil
}

// Package scheme holds the one scheme of aranya's API server, with its codecs. Clients use the scheme
// of pkg/generated/clientset instead.
package scheme

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"arhat.dev/aranya/pkg/apis/aranya/install"
)

var (
	// Scheme knows the internal and external types of aranya.arhat.dev and the meta types that every
	// API server needs.
	Scheme = runtime.NewScheme()
	// Codecs encode and decode the types of Scheme.
	Codecs = serializer.NewCodecFactory(Scheme)
	// ParameterCodec decodes query parameters, the options of the connect subresources included.
	// (metav1.ParameterCodec does not know those.)
	ParameterCodec = runtime.NewParameterCodec(Scheme)
)

func init() {
	install.Install(Scheme)

	// Options of the generic endpoints (ListOptions, ...) are looked up in the version "v1" of the
	// empty group, whatever the group of the resource.
	metav1.AddToGroupVersion(Scheme, schema.GroupVersion{Version: "v1"})
	unversioned := schema.GroupVersion{Version: "v1"}
	Scheme.AddUnversionedTypes(unversioned,
		&metav1.Status{},
		&metav1.APIVersions{},
		&metav1.APIGroupList{},
		&metav1.APIGroup{},
		&metav1.APIResourceList{},
	)
}

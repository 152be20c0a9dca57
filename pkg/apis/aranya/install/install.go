// Package install registers every version of the API aranya.arhat.dev in a scheme, and nothing else.
package install

import (
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// Install registers the API group in a scheme. It panics if the scheme has conflicting types.
func Install(scheme *runtime.Scheme) {
	utilruntime.Must(aranya.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	utilruntime.Must(scheme.SetVersionPriority(v1alpha1.SchemeGroupVersion))
}

package install

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting/roundtrip"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"arhat.dev/aranya/pkg/apis/aranya/fuzzer"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// TestRoundTrip sends random objects of every kind through conversion, JSON, protobuf and back.
func TestRoundTrip(t *testing.T) {
	roundtrip.RoundTripProtobufTestForAPIGroup(t, Install, fuzzer.Funcs)
}

// TestCompatibility keeps what is stored and sent readable: testdata/HEAD has an object of each kind with every field set,
// in every format. A new field changes these files, and UPDATE_COMPATIBILITY_FIXTURE_DATA=true writes them anew. Of
// what was there, no byte may change: least of all the number of a field in protobuf.
func TestCompatibility(t *testing.T) {
	scheme := runtime.NewScheme()
	Install(scheme)
	test := roundtrip.NewCompatibilityTestOptions(scheme)
	test.Kinds = []schema.GroupVersionKind{
		v1alpha1.SchemeGroupVersion.WithKind("EdgeDevice"), v1alpha1.SchemeGroupVersion.WithKind("EnrollmentToken"),
	}
	test.Complete(t).Run(t)
}

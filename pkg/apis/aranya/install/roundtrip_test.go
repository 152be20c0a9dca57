package install

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting/roundtrip"

	"arhat.dev/aranya/pkg/apis/aranya/fuzzer"
)

// TestRoundTrip sends random objects of every kind through conversion, JSON and back.
func TestRoundTrip(t *testing.T) {
	roundtrip.RoundTripTestForAPIGroup(t, Install, fuzzer.Funcs)
}

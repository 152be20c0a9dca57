package pods

import (
	"testing"

	"go.uber.org/goleak"

	"arhat.dev/aranya/pkg/edge/agent/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testKey is always the same.
func testKey(t testing.TB) *seal.Key {
	t.Helper()
	key, err := seal.New(make([]byte, seal.MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

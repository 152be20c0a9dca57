package pods

import (
	"errors"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

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

// unmountAndRemove removes a directory, and what a failed test has left mounted in it.
func unmountAndRemove(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			errs = append(errs, unix.Unmount(fields[4], unix.MNT_DETACH))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Package rights takes rights of root from a test, for what has to work without them too. What else a test does as
// another user is its own affair.
package rights

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Without takes capabilities (unix.CAP_*) from the test, to its end. It is the goroutine's thread that loses them: what
// the test does in other goroutines keeps them.
func Without(t *testing.T, capabilities ...int) {
	t.Helper()
	runtime.LockOSThread() // the thread ends with the test, as nothing unlocks it
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	for _, c := range capabilities {
		data[c/32].Effective &^= 1 << (c % 32)
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
}

package volumes

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Without the right to mount, which root need not have, secrets lie in the state directory, and stay there.
func TestSecretsWithoutMounts(t *testing.T) {
	runtime.LockOSThread() // it ends with the test, as nothing unlocks it
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mountPrivateTmpfs(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(token); err != nil {
		t.Error(err)
	}
}

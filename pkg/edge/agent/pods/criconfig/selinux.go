package criconfig

import (
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
)

// SELinuxEnabled tells whether the kernel of this device labels files, and with it whether the runtime has to
// label those that it mounts: containers may not touch the agent's own.
var SELinuxEnabled = sync.OnceValue(func() bool {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("selinuxfs"))
	if err != nil || !slices.ContainsFunc(mounts, writable) {
		return false
	}
	label, _ := os.ReadFile("/proc/self/attr/current")
	return strings.TrimRight(string(label), "\x00\n") != "kernel" // what all have until a policy is loaded
})

// writable selinuxfs: who may not use SELinux is shown it read-only.
func writable(mount *mountinfo.Info) bool {
	return !slices.Contains(strings.Split(mount.Options, ","), "ro") && !slices.Contains(strings.Split(mount.VFSOptions, ","), "ro")
}

package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountPrivateTmpfs keeps secrets off the disk. Without the right to mount, they lie below the
// agent's state directory, which only its user can enter.
func mountPrivateTmpfs(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	mounted, err := mountinfo.Mounted(real)
	if err != nil || mounted {
		return err
	}
	if !mayMount() {
		return nil
	}
	// What lies there was written before the mount was lost, by a reboot for example.
	if err := os.RemoveAll(real); err != nil {
		return err
	}
	if err := os.Mkdir(real, dirMode); err != nil {
		return err
	}
	return mountTmpfs(real, unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755")
}

// mountTmpfs mounts a tmpfs that is never swapped out, where the kernel has such: from 6.4 on, and not in a user
// namespace.
func mountTmpfs(at string, flags uintptr, options string) error {
	err := unix.Mount("tmpfs", at, "tmpfs", flags, options+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", at, "tmpfs", flags, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

// mayMount says whether the agent has the right to mount. Root need not have it.
func mayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&header, &sets[0]) == nil && sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

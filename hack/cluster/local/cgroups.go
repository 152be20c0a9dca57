package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/pkg/edge/agent/cgroups"
)

const cgroupRoot = "/sys/fs/cgroup"

// removeCgroups removes the cgroups of a device's pods and containers, which a runtime and an agent that were
// killed leave behind. Those of containers are named after them, wherever they are. What other runtimes may
// share, their common parent, stays.
func (c *Cluster) removeCgroups(device string) error {
	return errors.Join(c.removeContainerCgroups(device), c.removePodCgroups(device))
}

// removePodCgroups removes what the agent of a device has made: in one hierarchy, or in that of each controller.
func (c *Cluster) removePodCgroups(device string) error {
	sum := sha256.Sum256([]byte(c.devicePath(device, "state")))
	name := cgroups.DefaultRoot + "_" + hex.EncodeToString(sum[:4])
	var errs []error
	for _, pattern := range []string{filepath.Join(cgroupRoot, name), filepath.Join(cgroupRoot, "*", name)} {
		dirs, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, dir := range dirs {
			errs = append(errs, removeCgroup(dir))
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) removeContainerCgroups(device string) error {
	tasks, err := filepath.Glob(c.devicePath(device, "containerd", "state", "io.containerd.runtime.v2.task", "*", "*"))
	if err != nil || len(tasks) == 0 {
		return err
	}
	containers := map[string]bool{}
	for _, task := range tasks {
		containers[filepath.Base(task)] = true
	}
	var errs []error
	err = filepath.WalkDir(cgroupRoot, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a cgroup of somebody else that went meanwhile
		} else if err != nil {
			return err
		}
		if d.IsDir() && containers[d.Name()] {
			errs = append(errs, removeCgroup(path))
			return fs.SkipDir
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// removeCgroup removes a cgroup and those below it. Their processes have been killed, but the kernel
// may need a moment to be done with them.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			return fmt.Errorf("remove the cgroup %s: %w", dir, err)
		}
	}
}

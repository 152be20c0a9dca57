package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupsOf lists the cgroups of processes that are not those of this process: the ones that a
// container runtime made for them.
func cgroupsOf(processes []supervisor.Process) []string {
	own := map[string]bool{}
	for _, dir := range cgroupDirs("self") {
		own[dir] = true
	}
	seen := map[string]bool{}
	var dirs []string
	for _, p := range processes {
		for _, dir := range cgroupDirs(fmt.Sprint(p.PID)) {
			if !own[dir] && !seen[dir] {
				seen[dir] = true
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// cgroupDirs lists the directories of a process's cgroups, in every hierarchy that is mounted.
func cgroupDirs(pid string) []string {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[2] == "/" {
			continue
		}
		for _, hierarchy := range []string{strings.TrimPrefix(parts[1], "name="), "unified"} {
			dir := filepath.Join(cgroupRoot, hierarchy, parts[2])
			if _, err := os.Stat(dir); err == nil {
				dirs = append(dirs, dir)
				break
			}
		}
	}
	return dirs
}

// removeCgroups removes cgroups whose processes have ended, and parents that are empty then.
func removeCgroups(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		err := unix.EBUSY
		for deadline := time.Now().Add(5 * time.Second); err == unix.EBUSY && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			err = errno(unix.Rmdir(dir))
		}
		if err != 0 && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("remove the cgroup %s: %w", dir, err))
			continue
		}
		for parent := filepath.Dir(dir); strings.Count(parent, "/") > strings.Count(cgroupRoot, "/")+1; parent = filepath.Dir(parent) {
			if unix.Rmdir(parent) != nil {
				break
			}
		}
	}
	return errors.Join(errs...)
}

func errno(err error) unix.Errno {
	if e, ok := errors.AsType[unix.Errno](err); ok {
		return e
	}
	return 0
}

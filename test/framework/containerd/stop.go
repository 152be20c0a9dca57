package containerd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endTimeout bounds how long a killed process may take to go.
const endTimeout = 10 * time.Second

// volatileDirs are containerd's and runc's state, see configTemplate.
var volatileDirs = []string{"state", "runc"}

// Stop ends the containerd that runs in dir, whoever started it, with all its containers, and removes
// their mounts, network namespaces, cgroups and the bridge. The files below dir stay. It may be called
// again, and when nothing runs.
func Stop(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	errs := []error{killServer(dir)}
	shims, err := shimsOf(filepath.Join(dir, "containerd.sock"))
	errs = append(errs, err)
	var cgroups []string
	for _, shim := range shims {
		children := childrenOf(shim)
		for _, child := range children {
			cgroups = append(cgroups, cgroupDirs(child)...)
		}
		// The shim first, so that it does not see its containers end and call home.
		errs = append(errs, endProcess(shim))
		for _, child := range children {
			errs = append(errs, endProcess(child))
		}
	}
	for _, cgroup := range cgroups {
		if err := removeCgroup(cgroup); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, removeSockets(dir), removeBridge(dir))
	if err := UnmountBelow(dir); err != nil {
		return errors.Join(append(errs, err)...) // what is still mounted must not be deleted
	}
	// What a reboot of the machine would take away: a later Start finds containers that have ended.
	for _, name := range volatileDirs {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

// removeSockets removes the shims' sockets, which are in a directory of the whole machine.
func removeSockets(dir string) error {
	addresses, err := filepath.Glob(filepath.Join(dir, "state", "io.containerd.runtime.v2.task", "*", "*", "address"))
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range addresses {
		data, err := os.ReadFile(file)
		if path, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "unix://"); err == nil && ok {
			if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func shimsOf(socket string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		args, err := cmdline(pid)
		if err == nil && len(args) > 0 && strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && slices.Contains(args, socket) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func cmdline(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00"), nil
}

// childrenOf returns the processes that a shim looks after: each is the first of a container, or of
// an exec in one, and takes its PID namespace with it.
func childrenOf(pid int) []int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		for _, f := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(f); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// endProcess kills a process and waits until it is gone or a zombie.
func endProcess(pid int) error {
	if err := unix.Kill(pid, unix.SIGKILL); errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for deadline := time.Now().Add(endTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return err
		}
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) && (stat[i+2] == 'Z' || stat[i+2] == 'X') {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// cgroupDirs returns the cgroups of a process other than the caller's own, in every hierarchy.
func cgroupDirs(pid int) []string {
	own := map[string]bool{}
	for _, dir := range readCgroups("self") {
		own[dir] = true
	}
	var dirs []string
	for _, dir := range readCgroups(strconv.Itoa(pid)) {
		if !own[dir] && filepath.Dir(dir) != "/sys/fs/cgroup" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func readCgroups(pid string) []string {
	f, err := os.Open("/proc/" + pid + "/cgroup")
	if err != nil {
		return nil
	}
	defer f.Close()
	var dirs []string
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		parts := strings.SplitN(scanner.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if parts[1] == "" { // version 2, alone or beside version 1
			dirs = append(dirs, filepath.Join("/sys/fs/cgroup/unified", parts[2]))
		}
		dirs = append(dirs, filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(parts[1], "name="), parts[2]))
	}
	return dirs
}

func removeCgroup(dir string) error {
	var err error
	for deadline := time.Now().Add(endTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("remove cgroup %s: %w", dir, err)
}

// UnmountBelow unmounts what is mounted below dir, innermost first.
func UnmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	lines := strings.Split(string(data), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 5 {
			continue
		}
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(fields[4])
		if !strings.HasPrefix(point, dir+"/") {
			continue
		}
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

func removeBridge(dir string) error {
	name, err := os.ReadFile(filepath.Join(dir, bridgeFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	link := strings.TrimSpace(string(name))
	if _, err := os.Stat("/sys/class/net/" + link); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if out, err := exec.Command("ip", "link", "delete", link).CombinedOutput(); err != nil {
		return fmt.Errorf("delete bridge %s: %w: %s", link, err, out)
	}
	return nil
}

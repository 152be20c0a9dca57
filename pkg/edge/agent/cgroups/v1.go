package cgroups

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// minShares is the least share of the cpu, for pods that ask for none.
const minShares = 2

// controllersV1 are the hierarchies in which a pod has limits. In the others the runtime makes the pod's
// cgroup when it makes those of the containers.
var controllersV1 = []string{"cpu", "memory", "pids", "hugetlb"}

// v1Driver writes cgroup v1: a hierarchy per controller, mounted below one directory.
type v1Driver struct {
	mount string
	write writeFunc
}

// dir of a cgroup in the hierarchy of a controller; empty if that is not mounted.
func (d *v1Driver) dir(controller, cgroup string) string {
	if _, err := os.Stat(filepath.Join(d.mount, controller)); err != nil {
		return ""
	}
	return filepath.Join(d.mount, controller, cgroup)
}

func (d *v1Driver) prepare(cgroup string) error {
	made := 0
	for _, controller := range controllersV1 {
		dir := d.dir(controller, cgroup)
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		made++
	}
	if made == 0 {
		return errors.New("there are no cgroups at " + d.mount)
	}
	return nil
}

func (d *v1Driver) set(cgroup string, limits *Limits) error {
	var errs []error
	put := func(controller, name, value string) {
		dir := d.dir(controller, cgroup)
		if dir == "" {
			if controller == "hugetlb" {
				return // the device has no huge pages to limit
			}
			errs = append(errs, errors.New("the kernel has no cgroup controller "+controller))
			return
		}
		err := d.write(dir, name, value)
		if controller == "hugetlb" {
			err = ignoreInUse(err)
		}
		errs = append(errs, err)
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	if r := limits.Linux; r != nil {
		if r.CpuShares > 0 {
			put("cpu", "cpu.shares", number(r.CpuShares))
		}
		if r.CpuQuota != 0 {
			put("cpu", "cpu.cfs_period_us", number(r.CpuPeriod))
			put("cpu", "cpu.cfs_quota_us", number(r.CpuQuota))
		}
		if r.MemoryLimitInBytes != 0 {
			put("memory", "memory.limit_in_bytes", number(r.MemoryLimitInBytes))
		}
		for _, h := range r.HugepageLimits {
			put("hugetlb", "hugetlb."+h.PageSize+".limit_in_bytes", strconv.FormatUint(h.Limit, 10))
		}
	}
	if pids := pidsMax(limits); pids != noLimit || d.dir("pids", cgroup) != "" {
		put("pids", "pids.max", pids)
	}
	return errors.Join(errs...)
}

func (d *v1Driver) setShares(cgroup string, shares int64) error {
	dir := d.dir("cpu", cgroup)
	if dir == "" {
		return nil
	}
	return d.write(dir, "cpu.shares", strconv.FormatInt(shares, 10))
}

func (d *v1Driver) memory(cgroup string) (int64, error) {
	return readNumber(filepath.Join(d.mount, "memory", cgroup, "memory.usage_in_bytes"))
}

// find looks in all hierarchies. Those of several controllers have symbolic links as further names.
func (d *v1Driver) find(cgroup string) []string {
	var dirs []string
	entries, _ := os.ReadDir(d.mount) // without it there is none
	for _, entry := range entries {
		dir := filepath.Join(d.mount, entry.Name(), cgroup)
		if _, err := os.Stat(dir); err == nil && entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

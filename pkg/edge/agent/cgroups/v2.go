package cgroups

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	controllersFile = "cgroup.controllers"
	subtreeFile     = "cgroup.subtree_control"
	maxShares       = 262144
)

// controllersV2 are needed in pods: for the pod's limits, and for those of containers below.
var controllersV2 = []string{"cpu", "cpuset", "memory", "pids", "hugetlb", "io"}

// v2Driver writes cgroup v2, the unified hierarchy.
type v2Driver struct {
	mount string
	write writeFunc
}

// prepare makes the cgroup and has it, and each above it, hand the controllers down.
func (d *v2Driver) prepare(cgroup string) error {
	available, err := os.ReadFile(filepath.Join(d.mount, controllersFile))
	if err != nil {
		return err
	}
	var enable []string
	for _, controller := range strings.Fields(string(available)) {
		if slices.Contains(controllersV2, controller) {
			enable = append(enable, "+"+controller)
		}
	}
	dir := d.mount
	if err := d.write(dir, subtreeFile, strings.Join(enable, " ")); err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.Trim(cgroup, "/"), "/") {
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
		if err := d.write(dir, subtreeFile, strings.Join(enable, " ")); err != nil {
			return err
		}
	}
	return nil
}

// has tells whether the kernel has a controller.
func (d *v2Driver) has(controller string) bool {
	available, _ := os.ReadFile(filepath.Join(d.mount, controllersFile)) // prepare has read it
	return slices.Contains(strings.Fields(string(available)), controller)
}

func (d *v2Driver) set(cgroup string, limits *Limits) error {
	dir := filepath.Join(d.mount, cgroup)
	var errs []error
	if r := limits.Linux; r != nil {
		if r.CpuShares > 0 {
			errs = append(errs, d.setShares(cgroup, r.CpuShares))
		}
		if r.CpuQuota != 0 {
			errs = append(errs, d.write(dir, "cpu.max", fmt.Sprintf("%s %d", limitOrMax(r.CpuQuota), r.CpuPeriod)))
		}
		if r.MemoryLimitInBytes != 0 {
			errs = append(errs, d.write(dir, "memory.max", limitOrMax(r.MemoryLimitInBytes)))
		}
		if len(r.HugepageLimits) > 0 && d.has("hugetlb") { // without, the device has no huge pages to limit
			for _, h := range r.HugepageLimits {
				errs = append(errs, ignoreInUse(d.write(dir, "hugetlb."+h.PageSize+".max", strconv.FormatUint(h.Limit, 10))))
			}
		}
	}
	errs = append(errs, d.write(dir, "pids.max", pidsMax(limits)))
	return errors.Join(errs...)
}

func (d *v2Driver) setShares(cgroup string, shares int64) error {
	return d.write(filepath.Join(d.mount, cgroup), "cpu.weight", strconv.FormatInt(weight(shares), 10))
}

func (d *v2Driver) memory(cgroup string) (int64, error) {
	return readNumber(filepath.Join(d.mount, cgroup, "memory.current"))
}

func (d *v2Driver) find(cgroup string) []string {
	dir := filepath.Join(d.mount, cgroup)
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	return []string{dir}
}

func limitOrMax(n int64) string {
	if n < 0 {
		return noLimit
	}
	return strconv.FormatInt(n, 10)
}

// weight is cpu.weight for cpu.shares, by the curve that runc and the kubelet use: the least, the default
// and the most of the one are those of the other.
func weight(shares int64) int64 {
	if shares <= minShares {
		return 1
	}
	if shares >= maxShares {
		return 10000
	}
	l := math.Log2(float64(shares))
	return int64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// Package cgroups keeps a cgroup for each pod as a whole, where the container runtime puts those of its
// containers: kubepods/[burstable|besteffort/]pod<uid>, as the kubelet does with its driver "cgroupfs". It
// knows the files of cgroup v1 and v2, and nothing of how limits come from a pod. Cgroups of single
// containers are the runtime's, and so is everything if systemd manages them.
package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
)

const (
	// DefaultMount is where cgroups are mounted.
	DefaultMount = "/sys/fs/cgroup"
	// DefaultRoot is the name of the cgroup that holds those of all pods.
	DefaultRoot = "kubepods"

	podPrefix = "pod"
	noLimit   = "max"
	// removeTimeout is how long the kernel may need to be done with processes that have ended.
	removeTimeout = 2 * time.Second
)

// Limits are those of a pod as a whole. Fields of Linux that are 0 set nothing.
type Limits struct {
	Linux *runtimeapi.LinuxContainerResources
	// PIDs is how many processes and threads there may be; 0 or less is as many as the device has.
	PIDs int64
}

// Manager keeps the cgroups of pods. Its methods may be called concurrently, not for the same pod.
type Manager struct {
	mount, root string
	driver      driver
}

// driver writes limits into a cgroup, whose path is relative to the mount.
type driver interface {
	// prepare makes a cgroup in which others can be made, with the parents that it needs.
	prepare(cgroup string) error
	// set writes limits. What they do not say stays as it is.
	set(cgroup string, limits *Limits) error
	// setShares writes the share of the cpu, in the unit of cgroup v1.
	setShares(cgroup string, shares int64) error
	// memory tells how much a cgroup uses.
	memory(cgroup string) (int64, error)
	// find returns the directories of a cgroup.
	find(cgroup string) []string
}

// New returns a Manager for the cgroups below one of the name root.
func New(mount, root string) *Manager {
	m := &Manager{mount: mount, root: root, driver: &v1Driver{mount, write}}
	if _, err := os.Stat(filepath.Join(mount, controllersFile)); err == nil {
		m.driver = &v2Driver{mount, write}
	}
	return m
}

// parent is the cgroup of a pod of a class, as a runtime with the driver cgroupfs is told.
func (m *Manager) parent(uid string, class v1.PodQOSClass) string {
	return path.Join("/", m.root, level(class), podPrefix+uid)
}

// level of the hierarchy that pods of a class are in.
func level(class v1.PodQOSClass) string {
	switch class {
	case v1.PodQOSBurstable:
		return "burstable"
	case v1.PodQOSBestEffort:
		return "besteffort"
	}
	return ""
}

// Create makes the cgroup of a pod, or gives the limits to one that is there. If it fails, nothing is left.
func (m *Manager) Create(uid string, class v1.PodQOSClass, limits *Limits) error {
	cgroup := m.parent(uid, class)
	err := m.driver.prepare(cgroup)
	if err == nil && class == v1.PodQOSBestEffort {
		err = m.driver.setShares(path.Dir(cgroup), minShares)
	}
	if err == nil {
		err = m.driver.set(cgroup, limits)
	}
	if err != nil {
		return fmt.Errorf("cgroup of the pod: %w", errors.Join(err, m.Remove(uid)))
	}
	return nil
}

// Find returns the cgroup of a pod, as Parent does, if it has one. The class that it has been made for stays
// its place.
func (m *Manager) Find(uid string) (cgroup string, ok bool) {
	for _, class := range classes {
		if cgroup = m.parent(uid, class); len(m.driver.find(cgroup)) > 0 {
			return cgroup, true
		}
	}
	return "", false
}

// Update changes the limits of a cgroup that Find has found.
func (m *Manager) Update(cgroup string, limits *Limits) error {
	if err := m.driver.set(cgroup, limits); err != nil {
		return fmt.Errorf("cgroup of the pod: %w", err)
	}
	return nil
}

// Memory is how many bytes a cgroup uses.
func (m *Manager) Memory(cgroup string) (int64, error) { return m.driver.memory(cgroup) }

// SetShares divides the cpu between all pods and the rest of the device, and between pods with requests
// and others. The figures are those of cpu.shares in cgroup v1; burstable is for all such pods together.
func (m *Manager) SetShares(all, burstable int64) error {
	var errs []error
	for cgroup, shares := range map[string]int64{m.root: all, path.Join(m.root, level(v1.PodQOSBurstable)): burstable} {
		if len(m.driver.find(cgroup)) > 0 {
			errs = append(errs, m.driver.setShares(cgroup, max(shares, minShares)))
		}
	}
	return errors.Join(errs...)
}

// Remove removes the cgroups of a pod in which nothing runs any more, once the kernel is done with what ran
// there. It is no error if there are none.
func (m *Manager) Remove(uid string) error { return m.remove(uid, time.Now().Add(removeTimeout)) }

// TryRemove is like Remove and does not wait for the kernel.
func (m *Manager) TryRemove(uid string) error { return m.remove(uid, time.Time{}) }

func (m *Manager) remove(uid string, deadline time.Time) error {
	var errs []error
	for _, class := range classes {
		for _, dir := range m.driver.find(m.parent(uid, class)) {
			errs = append(errs, removeTree(dir, deadline))
		}
	}
	return errors.Join(errs...)
}

var classes = []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort}

// Pods are the UIDs of the pods that have a cgroup.
func (m *Manager) Pods() []string {
	var uids []string
	for _, class := range classes {
		for _, dir := range m.driver.find(path.Join(m.root, level(class))) {
			entries, _ := os.ReadDir(dir) // it may have gone
			for _, entry := range entries {
				if uid, ok := strings.CutPrefix(entry.Name(), podPrefix); ok && entry.IsDir() {
					uids = append(uids, uid)
				}
			}
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// removeTree removes a cgroup and those below it, which runtimes that were killed leave behind.
func removeTree(dir string, deadline time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return diskfile.IgnoreNotExist(err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name()), deadline); err != nil {
				return err
			}
		}
	}
	for {
		err := diskfile.IgnoreNotExist(os.Remove(dir)) // rmdir: the files of a cgroup are no obstacle
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func pidsMax(limits *Limits) string {
	if limits.PIDs <= 0 {
		return noLimit
	}
	return strconv.FormatInt(limits.PIDs, 10)
}

func readNumber(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// ignoreInUse is for limits of huge pages. The kernel refuses one below what is in use, as by a pod that ran before it
// had the limit: that goes on as it was until it is made anew.
func ignoreInUse(err error) error {
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

// writeFunc is write, or what stands for it.
type writeFunc func(dir, name, value string) error

// write writes a file of a cgroup.
func write(dir, name, value string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644)
}

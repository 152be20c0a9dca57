package cgroups

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func content(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(data))
}

var testLimits = &Limits{PIDs: 100, Linux: &runtimeapi.LinuxContainerResources{
	CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}},
}}

// TestV2 looks at what is written into a directory that stands for the unified hierarchy.
func TestV2(t *testing.T) {
	mount := t.TempDir()
	if err := os.WriteFile(filepath.Join(mount, controllersFile), []byte("cpuset cpu io memory hugetlb pids rdma misc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := New(mount, "kubepods")
	if err := m.Create("u", v1.PodQOSBurstable, testLimits); err != nil {
		t.Fatal(err)
	}
	if err := m.Create("b", v1.PodQOSBestEffort, &Limits{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuPeriod: 100000, CpuQuota: -1, MemoryLimitInBytes: -1}}); err != nil {
		t.Fatal(err)
	}
	if err := m.SetShares(2048, 512); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cgroup.subtree_control":                         "+cpuset +cpu +io +memory +hugetlb +pids",
		"kubepods/cgroup.subtree_control":                "+cpuset +cpu +io +memory +hugetlb +pids",
		"kubepods/burstable/cgroup.subtree_control":      "+cpuset +cpu +io +memory +hugetlb +pids",
		"kubepods/burstable/podu/cgroup.subtree_control": "+cpuset +cpu +io +memory +hugetlb +pids",
		"kubepods/cpu.weight":                            "174",
		"kubepods/burstable/cpu.weight":                  "59",
		"kubepods/besteffort/cpu.weight":                 "1",
		"kubepods/burstable/podu/cpu.weight":             "59",
		"kubepods/burstable/podu/cpu.max":                "50000 100000",
		"kubepods/burstable/podu/memory.max":             "67108864",
		"kubepods/burstable/podu/pids.max":               "100",
		"kubepods/burstable/podu/hugetlb.2MB.max":        "4194304",
		"kubepods/besteffort/podb/cpu.max":               "max 100000",
		"kubepods/besteffort/podb/memory.max":            "max",
		"kubepods/besteffort/podb/pids.max":              "max",
	} {
		if got := content(t, mount, file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
	if got := m.Pods(); !slices.Equal(got, []string{"b", "u"}) {
		t.Errorf("got pods %v", got)
	}
	cgroup, ok := m.Find("u")
	if !ok || cgroup != "/kubepods/burstable/podu" || m.parent("u", v1.PodQOSGuaranteed) != "/kubepods/podu" {
		t.Errorf("the pod is at %s", cgroup)
	}
	if err := os.WriteFile(filepath.Join(mount, "kubepods/burstable/podu/memory.current"), []byte("4096\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Memory(m.parent("u", v1.PodQOSBurstable)); n != 4096 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

// TestV2WithoutHugetlb has a kernel whose huge pages cannot be limited.
func TestV2WithoutHugetlb(t *testing.T) {
	mount := t.TempDir()
	if err := os.WriteFile(filepath.Join(mount, controllersFile), []byte("cpuset cpu io memory pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := New(mount, "kubepods")
	if err := m.Create("u", v1.PodQOSBurstable, testLimits); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(mount, "kubepods/burstable/podu/hugetlb.*")); len(files) > 0 {
		t.Errorf("wrote %q, which the kernel does not have", files)
	}
}

// TestLimitsBelowUse has a kernel refuse a limit since more is in use. For huge pages that is no error, as their users
// keep them anyway.
func TestLimitsBelowUse(t *testing.T) {
	for name, tt := range map[string]struct {
		unified bool   // cgroup v2
		refuse  string // prefix of the file
		fails   bool
	}{
		"v1, huge pages": {false, "hugetlb.", false},
		"v1, memory":     {false, "memory.", true},
		"v2, huge pages": {true, "hugetlb.", false},
		"v2, memory":     {true, "memory.", true},
	} {
		t.Run(name, func(t *testing.T) {
			mount := t.TempDir()
			var err error
			if tt.unified {
				err = write(mount, controllersFile, strings.Join(controllersV2, " "))
			}
			for _, controller := range controllersV1 {
				err = errors.Join(err, os.Mkdir(filepath.Join(mount, controller), 0o755))
			}
			if err != nil {
				t.Fatal(err)
			}
			m := New(mount, "kubepods")
			if err := m.Create("u", v1.PodQOSBurstable, testLimits); err != nil {
				t.Fatal(err)
			}
			busy := func(dir, name, value string) error {
				if strings.HasPrefix(name, tt.refuse) {
					return &os.PathError{Op: "write", Path: filepath.Join(dir, name), Err: unix.EBUSY}
				}
				return write(dir, name, value)
			}
			switch d := m.driver.(type) {
			case *v1Driver:
				d.write = busy
			case *v2Driver:
				d.write = busy
			}
			if err := m.Update(m.parent("u", v1.PodQOSBurstable), testLimits); (err != nil) != tt.fails {
				t.Errorf("got %v, want an error: %t", err, tt.fails)
			}
		})
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[int64]int64{0: 1, 2: 1, 102: 17, 1024: 100, 262144: 10000, 1 << 20: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

// TestFailureLeavesNothing has a device whose kernel lacks a controller.
func TestFailureLeavesNothing(t *testing.T) {
	mount := t.TempDir()
	if err := os.Mkdir(filepath.Join(mount, "memory"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := New(mount, "kubepods")
	err := m.Create("u", v1.PodQOSGuaranteed, &Limits{PIDs: 1})
	if err == nil || !strings.Contains(err.Error(), "no cgroup controller pids") || len(m.Pods()) > 0 {
		t.Errorf("got %v, left %v", err, m.Pods())
	}
	if err := New(filepath.Join(mount, "none"), "kubepods").Create("u", v1.PodQOSGuaranteed, testLimits); err == nil {
		t.Error("made a cgroup where there are none")
	}
}

// TestKernel works with the cgroups of this machine.
func TestKernel(t *testing.T) {
	root := fmt.Sprintf("kubepods_test%d", os.Getpid())
	m := New(DefaultMount, root)
	limits := &Limits{PIDs: 50, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20}}
	if err := m.Create("u", v1.PodQOSBurstable, limits); err != nil {
		t.Skip("cgroups cannot be made here:", err)
	}
	t.Cleanup(func() {
		for _, cgroup := range []string{root + "/burstable", root} {
			for _, dir := range m.driver.find(cgroup) {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			}
		}
	})
	if err := m.SetShares(2048, 512); err != nil {
		t.Error(err)
	}
	// What a runtime that was killed leaves behind, and a process in it.
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var err error
	for _, dir := range m.driver.find(m.parent("u", v1.PodQOSBurstable)) {
		leftover := filepath.Join(dir, "container")
		err = errors.Join(err, os.Mkdir(leftover, 0o755), write(leftover, "cgroup.procs", fmt.Sprint(cmd.Process.Pid)))
	}
	if err == nil {
		if removeErr := m.TryRemove("u"); !errors.Is(removeErr, unix.EBUSY) {
			t.Errorf("removed a cgroup with a process in it: %v", removeErr)
		}
	}
	if killErr := cmd.Process.Kill(); err != nil || killErr != nil {
		t.Error(err, killErr)
	}
	_ = cmd.Wait()
	if got := m.Pods(); !slices.Equal(got, []string{"u"}) {
		t.Errorf("got pods %v", got)
	}
	limits.Linux.MemoryLimitInBytes, limits.Linux.CpuQuota, limits.PIDs = -1, -1, 0
	if err := m.Update(m.parent("u", v1.PodQOSBurstable), limits); err != nil {
		t.Error(err)
	}
	if n, err := m.Memory(m.parent("u", v1.PodQOSBurstable)); err != nil || n < 0 {
		t.Errorf("uses %d: %v", n, err)
	}
	if err := m.Remove("u"); err != nil || len(m.Pods()) > 0 {
		t.Errorf("not removed: %v", err)
	}
	if err := m.Remove("u"); err != nil {
		t.Error(err)
	}
}

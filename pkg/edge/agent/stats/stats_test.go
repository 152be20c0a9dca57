package stats

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRuntime has one pod with two containers.
type fakeRuntime struct {
	runtime.Runtime
	cpu      uint64
	at       int64
	podStats []*runtimeapi.PodSandboxStats
	podErr   error
	swap     *runtimeapi.SwapUsage
	psi      *runtimeapi.PsiStats
	err      error
	imageFs  *runtimeapi.ImageFsInfoResponse // nil: not told
}

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (f *fakeRuntime) ListPodSandbox(_ context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	if filter.LabelSelector["owner"] != "me" {
		return nil, errors.New("no label selector")
	}
	return []*runtimeapi.PodSandbox{{Id: "s1", CreatedAt: 1e18, Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "default", Name: "web", Uid: "uid"}}}, f.err
}

func (f *fakeRuntime) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return []*runtimeapi.Container{
		{Id: "c2", PodSandboxId: "s1", Metadata: &runtimeapi.ContainerMetadata{Name: "two"}},
		{Id: "c1", PodSandboxId: "s1", Labels: map[string]string{"io.kubernetes.container.name": "one"}},
		{Id: "c3", PodSandboxId: "s1", Metadata: &runtimeapi.ContainerMetadata{Name: "without-stats"}},
		{Id: "c4", PodSandboxId: "other"},
	}, f.err
}

func (f *fakeRuntime) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	stats := func(id string, cpu, memory uint64) *runtimeapi.ContainerStats {
		return &runtimeapi.ContainerStats{
			Attributes: &runtimeapi.ContainerAttributes{Id: id}, Cpu: &runtimeapi.CpuUsage{Timestamp: f.at, UsageCoreNanoSeconds: value(cpu), Psi: f.psi},
			Memory: &runtimeapi.MemoryUsage{Timestamp: f.at, WorkingSetBytes: value(memory), Psi: f.psi},
			Swap:   f.swap, Io: &runtimeapi.IoUsage{Timestamp: f.at, Psi: f.psi},
			WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: f.at, UsedBytes: value(7)},
		}
	}
	return []*runtimeapi.ContainerStats{stats("c1", f.cpu, 100), stats("c2", f.cpu, 200)}, f.err
}

func (f *fakeRuntime) ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return f.podStats, f.podErr
}

func (f *fakeRuntime) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	if f.imageFs == nil {
		return nil, errors.New("not told")
	}
	return f.imageFs, nil
}

// kernel writes the files of a machine.
func kernel(t *testing.T, root string, ticks int) {
	t.Helper()
	for name, text := range map[string]string{
		"proc/stat":                   fmt.Sprintf("cpu  %d 0 0 1000 1000 0 0 0 50 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nbtime 1000000000\n", ticks),
		"proc/meminfo":                "MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: 400 kB\nAnonPages: 50 kB\nSwapTotal: 100 kB\nSwapFree: 90 kB\n",
		"proc/vmstat":                 "pgfault 12\npgmajfault 3\n",
		"proc/net/dev":                "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n  eth0: 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25\n",
		"proc/net/route":              "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth0 00000000 0102A8C0 0003 0 0 0 00000000\n",
		"proc/loadavg":                "0 0 0 1/123 4\n",
		"proc/sys/kernel/pid_max":     "4000\n",
		"proc/sys/kernel/threads-max": "3000\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func newCollector(t *testing.T, r runtime.Runtime) (*Collector, *clocktesting.FakePassiveClock, string) {
	root := t.TempDir()
	kernel(t, root, 100)
	clock := clocktesting.NewFakePassiveClock(time.Unix(2e9, 0))
	c := New(Config{Runtime: r, Labels: map[string]string{"owner": "me"}, StateDir: root, Clock: clock, root: root})
	c.SetNodeName("device-1")
	return c, clock, root
}

// What is left of the memory is known of a container with a limit only.
func TestAvailableMemory(t *testing.T) {
	for name, test := range map[string]struct{ told, want *uint64 }{
		"a limit":  {told: ptr.To[uint64](5), want: ptr.To[uint64](5)},
		"no limit": {told: ptr.To[uint64](0)},
		"not told": {},
	} {
		t.Run(name, func(t *testing.T) {
			usage := &runtimeapi.MemoryUsage{WorkingSetBytes: value(7)}
			if test.told != nil {
				usage.AvailableBytes = value(*test.told)
			}
			if got := memoryStats(usage); !ptr.Equal(got.AvailableBytes, test.want) || *got.WorkingSetBytes != 7 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	r := &fakeRuntime{cpu: 1e9, at: 1e18, podErr: status.Error(codes.Unknown, "one has no cgroup")}
	c, clock, root := newCollector(t, r)
	if _, err := c.Summary(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	clock.SetTime(clock.Now().Add(10 * time.Second))
	kernel(t, root, 600)
	r.cpu, r.at = 6e9, 1e18+10e9
	s, err := c.Summary(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	n := s.Node
	for name, check := range map[string]struct {
		got  *uint64
		want uint64
	}{
		"cpu":         {n.CPU.UsageCoreNanoSeconds, 6e9},
		"cpu rate":    {n.CPU.UsageNanoCores, 5e8},
		"available":   {n.Memory.AvailableBytes, 400 << 10},
		"usage":       {n.Memory.UsageBytes, 700 << 10},
		"working set": {n.Memory.WorkingSetBytes, 600 << 10},
		"rss":         {n.Memory.RSSBytes, 50 << 10},
		"page faults": {n.Memory.PageFaults, 12},
		"swap":        {n.Swap.SwapUsageBytes, 10 << 10},
		"received":    {n.Network.RxBytes, 10},
		"sent":        {n.Network.TxBytes, 18},
		"errors":      {n.Network.TxErrors, 20},
		"rate of c1":  {s.Pods[0].Containers[0].CPU.UsageNanoCores, 5e8},
		"pod's cpu":   {s.Pods[0].CPU.UsageNanoCores, 1e9},
		"pod's cpu s": {s.Pods[0].CPU.UsageCoreNanoSeconds, 12e9},
		"pod memory":  {s.Pods[0].Memory.WorkingSetBytes, 300},
		"rootfs":      {s.Pods[0].Containers[1].Rootfs.UsedBytes, 7},
	} {
		if check.got == nil || *check.got != check.want {
			t.Errorf("%s is %d, want %d", name, ptr.Deref(check.got, 0), check.want)
		}
	}
	if n.NodeName != "device-1" || n.StartTime.Unix() != 1e9 || n.Network.Name != "eth0" || len(n.Network.Interfaces) != 1 || n.Fs == nil || *n.Rlimit.MaxPID != 3000 || *n.Rlimit.NumOfRunningProcesses != 123 {
		t.Errorf("got %+v", n)
	}
	p := s.Pods[0]
	if len(s.Pods) != 1 || p.PodRef != (statsapi.PodReference{Namespace: "default", Name: "web", UID: "uid"}) || len(p.Containers) != 2 || p.Containers[0].Name != "one" || p.Containers[1].Name != "two" {
		t.Errorf("got %+v", s.Pods)
	}
	if s, err = c.Summary(t.Context(), true); err != nil || s.Node.Network != nil || s.Node.Fs != nil || s.Node.CPU == nil || s.Pods[0].Containers[0].Rootfs != nil || s.Pods[0].Containers[0].CPU == nil {
		t.Errorf("only cpu and memory: %+v, %v", s, err)
	}
}

func TestPodStatsOfTheRuntime(t *testing.T) {
	r := &fakeRuntime{cpu: 1e9, at: 1e18, podStats: []*runtimeapi.PodSandboxStats{{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: "s1"},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: &runtimeapi.CpuUsage{Timestamp: 1e18, UsageCoreNanoSeconds: value(9e9), UsageNanoCores: value(5)}, Memory: &runtimeapi.MemoryUsage{WorkingSetBytes: value(999)},
			Network: &runtimeapi.NetworkUsage{DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: value(1)}},
			Process: &runtimeapi.ProcessUsage{ProcessCount: value(4)},
		},
	}}}
	c, _, _ := newCollector(t, r)
	s, err := c.Summary(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Pods[0]
	if *p.CPU.UsageCoreNanoSeconds != 9e9 || *p.CPU.UsageNanoCores != 5 || *p.Memory.WorkingSetBytes != 999 || p.Network.Name != "eth0" || *p.Network.RxBytes != 1 || *p.ProcessStats.ProcessCount != 4 {
		t.Errorf("got %+v", p)
	}
}

// TestNotMeasuredYet checks that nothing is said to have been measured in 1970: runtimes give 0 for the time of what
// they have not measured yet, and containerd 1.6 for that of the network always.
func TestNotMeasuredYet(t *testing.T) {
	measured := time.Unix(1e9, 0)
	for name, tt := range map[string]struct {
		at     int64
		want   time.Time
		rootfs bool
	}{
		"measured":  {measured.UnixNano(), measured, true},
		"not timed": {0, time.Unix(2e9, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := newCollector(t, &fakeRuntime{at: tt.at, podStats: []*runtimeapi.PodSandboxStats{{
				Attributes: &runtimeapi.PodSandboxAttributes{Id: "s1"},
				Linux: &runtimeapi.LinuxPodSandboxStats{Network: &runtimeapi.NetworkUsage{
					Timestamp: tt.at, DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "eth0"},
				}},
			}}})
			s, err := c.Summary(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			p := s.Pods[0]
			if got := p.Network.Time; !got.Time.Equal(tt.want) {
				t.Errorf("the network was measured at %v, want %v", got, tt.want)
			}
			if rootfs := p.Containers[0].Rootfs; (rootfs != nil) != tt.rootfs {
				t.Errorf("rootfs is %v", rootfs)
			}
		})
	}
}

// TestSwapAndPressure checks that they are told as the runtime tells them, and swap of pods as the sum of their
// containers'.
func TestSwapAndPressure(t *testing.T) {
	psi := &runtimeapi.PsiStats{Full: &runtimeapi.PsiData{Total: 1, Avg10: 2, Avg60: 3, Avg300: 4}, Some: &runtimeapi.PsiData{Total: 5}}
	want := statsapi.PSIStats{Full: statsapi.PSIData{Total: 1, Avg10: 2, Avg60: 3, Avg300: 4}, Some: statsapi.PSIData{Total: 5}}
	c, _, _ := newCollector(t, &fakeRuntime{
		swap: &runtimeapi.SwapUsage{Timestamp: 1e18, SwapAvailableBytes: value(10), SwapUsageBytes: value(3)}, psi: psi,
		podStats: []*runtimeapi.PodSandboxStats{{
			Attributes: &runtimeapi.PodSandboxAttributes{Id: "s1"}, Linux: &runtimeapi.LinuxPodSandboxStats{Io: &runtimeapi.IoUsage{Timestamp: 1e18, Psi: psi}},
		}},
	})
	for _, reduced := range []bool{false, true} {
		s, err := c.Summary(t.Context(), reduced)
		if err != nil {
			t.Fatal(err)
		}
		pod, container := s.Pods[0], s.Pods[0].Containers[0]
		if got := container.Swap; got == nil || *got.SwapUsageBytes != 3 || *got.SwapAvailableBytes != 10 || got.Time.Unix() != 1e9 {
			t.Errorf("swap of the container is %+v", got)
		}
		if got := pod.Swap; got == nil || *got.SwapUsageBytes != 6 || *got.SwapAvailableBytes != 20 || got.Time.Unix() != 1e9 {
			t.Errorf("swap of the pod is %+v", got)
		}
		if container.CPU.PSI == nil || *container.CPU.PSI != want || container.Memory.PSI == nil || *container.Memory.PSI != want {
			t.Errorf("pressure of the container is %+v and %+v", container.CPU.PSI, container.Memory.PSI)
		}
		if reduced {
			continue
		}
		if container.IO == nil || *container.IO.PSI != want || pod.IO == nil || *pod.IO.PSI != want {
			t.Errorf("pressure by IO is %+v, of the pod %+v", container.IO, pod.IO)
		}
	}
}

// TestWithoutRuntime checks that the device itself is still measured.
func TestWithoutRuntime(t *testing.T) {
	c, _, _ := newCollector(t, &fakeRuntime{err: errors.New("away")})
	s, err := c.Summary(t.Context(), false)
	if err != nil || s.Node.CPU == nil || len(s.Pods) != 0 {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestUsage(t *testing.T) {
	c, clock, root := newCollector(t, &fakeRuntime{})
	if cpu, memory := c.Usage(); cpu != 0 || memory != 600<<10 {
		t.Errorf("got %d, %d", cpu, memory)
	}
	clock.SetTime(clock.Now().Add(40 * time.Second))
	kernel(t, root, 100+4000)
	if cpu, _ := c.Usage(); cpu != 1e9 {
		t.Errorf("got %d", cpu)
	}
	clock.SetTime(clock.Now().Add(time.Millisecond))
	if cpu, _ := c.Usage(); cpu != 1e9 {
		t.Errorf("a window that is too short gave %d", cpu)
	}
	clock.SetTime(clock.Now().Add(time.Hour))
	if cpu, _ := c.Usage(); cpu != 0 {
		t.Errorf("a window that is too long gave %d", cpu)
	}
}

func FuzzKernelFiles(f *testing.F) {
	f.Add("cpu  1 2 3 4 5 6 7 8 9 10\nbtime 99999999999999999999\n")
	f.Add("eth0: 1 2 3")
	f.Add("MemTotal: 18446744073709551615 kB\n")
	f.Fuzz(func(t *testing.T, text string) {
		m := machine{}
		m.parseStat(text)
		m.parseMeminfo(text)
		m.parseVMStat(text)
		m.interfaces = parseNetDev(text)
		m.defaultInterface = parseRoute(text)
		m.nodeStats("n", time.Unix(0, 0), nil)
	})
}

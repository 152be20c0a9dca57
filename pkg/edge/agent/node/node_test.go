package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/version"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRuntime answers the calls that a Collector makes.
type fakeRuntime struct {
	runtime.Runtime
	err        error
	conditions []*runtimeapi.RuntimeCondition
	version    string
	images     []*runtimeapi.Image
}

func (f *fakeRuntime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: f.conditions}}, f.err
}

func (f *fakeRuntime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "containerd", RuntimeVersion: f.version}, f.err
}

func (f *fakeRuntime) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return f.images, f.err
}

func healthy() *fakeRuntime {
	return &fakeRuntime{version: "1.6.20", conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
	}}
}

// machine is a root directory with the kernel's files.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, root: t.TempDir()}
	for name, text := range map[string]string{
		"proc/sys/kernel/hostname":       "Device-1\n",
		"proc/sys/kernel/osrelease":      "6.1.0\n",
		"proc/sys/kernel/random/boot_id": "boot\n",
		"proc/sys/kernel/pid_max":        "4194304\n",
		"proc/sys/kernel/threads-max":    "1000\n",
		"proc/loadavg":                   "0.1 0.2 0.3 1/100 4567\n",
		"proc/meminfo":                   "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\n",
		"etc/machine-id":                 "machine\n",
		"etc/os-release":                 "NAME=x\nPRETTY_NAME=\"Test OS 1\"\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "8\n",
	} {
		m.write(name, text)
	}
	return m
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) collector(r runtime.Runtime, clk clock.WithTicker) *Collector {
	return New(Config{
		Runtime: r, Version: "v1.2.3", StateDir: m.root, Clock: clk,
		Reserved: func(v1.ResourceList) v1.ResourceList {
			return v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi"), v1.ResourceCPU: resource.MustParse("100")}
		},
		system: system{root: m.root, ips: func(string) []string { return []string{"192.0.2.7"} }},
	})
}

func condition(s *v1.NodeStatus, t v1.NodeConditionType) v1.NodeCondition {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c
		}
	}
	return v1.NodeCondition{}
}

func TestStatus(t *testing.T) {
	m := newMachine(t)
	r := healthy()
	r.images = []*runtimeapi.Image{{Id: "small", RepoTags: []string{"small:1"}, Size: 1}, {Id: "large", RepoTags: []string{"large:1"}, RepoDigests: []string{"large@sha256:1"}, Size: 2}, {Id: "nameless", Size: 3}}
	c := m.collector(r, clocktesting.NewFakeClock(time.Unix(1e9, 0)))
	c.SetPodCapacity(5)
	s, changed := c.Refresh(t.Context())
	if !changed {
		t.Error("the first status is no change")
	}
	for name, want := range map[v1.ResourceName]string{"memory": "1Gi", "pods": "5", "hugepages-2Mi": "16Mi"} {
		if q := s.Capacity[name]; q.Cmp(resource.MustParse(want)) != 0 {
			t.Errorf("capacity of %s is %s, want %s", name, q.String(), want)
		}
	}
	for name, want := range map[v1.ResourceName]string{"memory": "944Mi", "pods": "5", "hugepages-2Mi": "16Mi", "cpu": "0"} {
		if q := s.Allocatable[name]; q.Cmp(resource.MustParse(want)) != 0 {
			t.Errorf("allocatable %s is %s, want %s", name, q.String(), want)
		}
	}
	if !slices.IsSorted(s.DeclaredFeatures) || !slices.Contains(s.DeclaredFeatures, "RestartAllContainersOnContainerExits") {
		t.Errorf("declared features are %v", s.DeclaredFeatures)
	}
	if q := s.Capacity[v1.ResourceEphemeralStorage]; q.Sign() <= 0 {
		t.Errorf("ephemeral storage is %s", q.String())
	}
	want := v1.NodeSystemInfo{
		MachineID: "machine", SystemUUID: "machine", BootID: "boot", KernelVersion: "6.1.0", OSImage: "Test OS 1", OperatingSystem: "linux",
		Architecture: s.NodeInfo.Architecture, ContainerRuntimeVersion: "containerd://1.6.20", KubeletVersion: KubernetesVersion + "-arhat.1.2.3",
	}
	if s.NodeInfo != want {
		t.Errorf("got %+v, want %+v", s.NodeInfo, want)
	}
	if got := fmt.Sprint(s.Addresses); got != "[{InternalIP 192.0.2.7} {Hostname device-1}]" {
		t.Errorf("got %s", got)
	}
	if got := fmt.Sprint(s.Images); got != "[{[large:1 large@sha256:1] 2} {[small:1] 1}]" {
		t.Errorf("got %s", got)
	}
	for _, ct := range []v1.NodeConditionType{v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure} {
		if got := condition(s, ct); got.Status != v1.ConditionFalse || got.Reason == "" || got.LastTransitionTime.IsZero() {
			t.Errorf("got %v", got)
		}
	}
	if got := condition(s, v1.NodeReady); got.Status != v1.ConditionTrue || got.Reason != "KubeletReady" {
		t.Errorf("got %v", got)
	}
}

// TestIdleIsSilent checks that what changes all the time is no news.
func TestIdleIsSilent(t *testing.T) {
	m := newMachine(t)
	clock := clocktesting.NewFakeClock(time.Unix(1e9, 0))
	c := m.collector(healthy(), clock)
	if _, changed := c.Refresh(t.Context()); !changed {
		t.Error("the first status is no change")
	}
	for i := range 100 {
		clock.Step(period)
		m.write("proc/loadavg", fmt.Sprintf("0.1 0.2 0.3 1/%d 4567\n", 100+i))
		m.write("proc/meminfo", fmt.Sprintf("MemTotal: 1048576 kB\nMemAvailable: %d kB\n", 524288-i))
		if s, changed := c.Refresh(t.Context()); changed {
			t.Fatalf("changed: %v", s)
		}
	}
	c.SetPodCapacity(7)
	if _, changed := c.Refresh(t.Context()); !changed {
		t.Error("a change is no news")
	}
}

func TestPressure(t *testing.T) {
	m := newMachine(t)
	clock := clocktesting.NewFakeClock(time.Unix(1e9, 0))
	c := m.collector(healthy(), clock)
	short := map[v1.NodeConditionType]bool{v1.NodeMemoryPressure: true, v1.NodePIDPressure: true}
	c.config.Pressure = func(t v1.NodeConditionType) bool { return short[t] }
	s, _ := c.Refresh(t.Context())
	memory, disk, pid := condition(s, v1.NodeMemoryPressure), condition(s, v1.NodeDiskPressure), condition(s, v1.NodePIDPressure)
	if memory.Status != v1.ConditionTrue || memory.Reason != "KubeletHasInsufficientMemory" || pid.Status != v1.ConditionTrue || disk.Status != v1.ConditionFalse {
		t.Errorf("got %v, %v, %v", memory, disk, pid)
	}
	clock.Step(time.Minute)
	if _, changed := c.Refresh(t.Context()); changed {
		t.Error("a pressure that lasts is news")
	}
	clear(short)
	s, _ = c.Refresh(t.Context())
	if got := condition(s, v1.NodeMemoryPressure); got.Status != v1.ConditionFalse || !got.LastTransitionTime.After(memory.LastTransitionTime.Time) {
		t.Errorf("got %v", got)
	}
}

func TestRuntimeNotReady(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*fakeRuntime)
		want   string
	}{
		"away": {func(r *fakeRuntime) { r.err = errors.New("connection refused") }, "does not answer: connection refused"},
		"not ready": {func(r *fakeRuntime) {
			r.conditions[0] = &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Reason: "R", Message: "M"}
		}, "RuntimeReady=false reason:R message:M"},
		"no network":  {func(r *fakeRuntime) { r.conditions[1].Status = false }, "NetworkReady=false"},
		"tells wrong": {func(r *fakeRuntime) { r.conditions = nil }, "RuntimeReady is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			r := healthy()
			c := newMachine(t).collector(r, clocktesting.NewFakeClock(time.Unix(1e9, 0)))
			c.Refresh(t.Context())
			tt.change(r)
			s, changed := c.Refresh(t.Context())
			got := condition(s, v1.NodeReady)
			if !changed || got.Status != v1.ConditionFalse || got.Reason != "RuntimeNotReady" || !strings.Contains(got.Message, tt.want) {
				t.Errorf("got %v", got)
			}
			if s.NodeInfo.ContainerRuntimeVersion != "containerd://1.6.20" {
				t.Errorf("the version is forgotten: %q", s.NodeInfo.ContainerRuntimeVersion)
			}
		})
	}
}

// TestRuntimeIsUpgraded checks that a runtime that was away is asked for its version again.
func TestRuntimeIsUpgraded(t *testing.T) {
	r := healthy()
	c := newMachine(t).collector(r, clocktesting.NewFakeClock(time.Unix(1e9, 0)))
	c.Refresh(t.Context())
	r.err = errors.New("away")
	c.Refresh(t.Context())
	r.err, r.version = nil, "2.0.0"
	if s, _ := c.Refresh(t.Context()); s.NodeInfo.ContainerRuntimeVersion != "containerd://2.0.0" {
		t.Errorf("got %q", s.NodeInfo.ContainerRuntimeVersion)
	}
}

// TestRecent checks that the device is not looked at several times in one moment, unless it is not ready.
func TestRecent(t *testing.T) {
	r, clock := healthy(), clocktesting.NewFakeClock(time.Unix(1e9, 0))
	c := newMachine(t).collector(r, clock)
	isReadyAfter := func(d time.Duration, err error) bool {
		clock.Step(d)
		r.err = err
		return isReady(c.Recent(t.Context()))
	}
	away := errors.New("away")
	if !isReadyAfter(0, nil) {
		t.Error("the first look is none")
	}
	if !isReadyAfter(justNow-1, away) {
		t.Error("looked again at once")
	}
	if isReadyAfter(1, away) {
		t.Error("did not look again")
	}
	if !isReadyAfter(0, nil) {
		t.Error("did not look again at a device that was not ready")
	}
}

func TestRun(t *testing.T) {
	c := newMachine(t).collector(healthy(), clocktesting.NewFakeClock(time.Unix(1e9, 0)))
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan *v1.NodeStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx, func(s *v1.NodeStatus) { changes <- s })
	}()
	if first := <-changes; first != c.Status() {
		t.Error("Status is another")
	}
	c.SetPodCapacity(9)
	if s := <-changes; s.Capacity.Pods().Value() != 9 {
		t.Errorf("got %v", s.Capacity)
	}
	cancel()
	<-done
}

// lateRuntime does not answer before it is up.
type lateRuntime struct {
	*fakeRuntime
	up atomic.Bool
}

func (r *lateRuntime) Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	if !r.up.Load() {
		return nil, errors.New("no such socket")
	}
	return r.fakeRuntime.Status(ctx, verbose)
}

// TestRunSeesTheRuntimeComeUp checks that a device which is not ready does not wait for its next regular
// look to become so.
func TestRunSeesTheRuntimeComeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		r := &lateRuntime{fakeRuntime: healthy()}
		c := m.collector(r, clock.RealClock{}) // that of the bubble
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		changes := make(chan *v1.NodeStatus, 1)
		go c.Run(ctx, func(s *v1.NodeStatus) { changes <- s })
		if isReady(<-changes) {
			t.Fatal("ready without a runtime")
		}
		time.Sleep(period / 2)
		synctest.Wait()
		r.up.Store(true)
		begin := time.Now()
		if !isReady(<-changes) || time.Since(begin) > unreadyPeriod {
			t.Errorf("not ready, or only after %s", time.Since(begin))
		}
	})
}

func TestKubernetesVersionIsThatOfTheLibraries(t *testing.T) {
	data, err := os.ReadFile("../../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`k8s\.io/api v0\.(\d+\.\d+)`).FindSubmatch(data)
	if m == nil || "v1."+string(m[1]) != KubernetesVersion {
		t.Errorf("KubernetesVersion is %s, go.mod has v0.%s", KubernetesVersion, m[1])
	}
	for _, agent := range []string{"v1.2.3", "v0.0.0-dev+0123456789ab", "0.1.0-rc.1"} {
		if _, err := version.ParseSemantic(kubeletVersion(agent)); err != nil {
			t.Error(err)
		}
	}
}

func TestHostIPs(t *testing.T) {
	ips := HostIPs("")
	if len(ips) == 0 || len(ips) > 2 {
		t.Fatalf("got %v", ips)
	}
	for _, ip := range ips {
		if _, err := netip.ParseAddr(ip); err != nil {
			t.Error(err)
		}
	}
	if got := HostIPs("198.51.100.9"); got[0] != "198.51.100.9" {
		t.Errorf("got %v", got)
	}
}

func TestHasAddress(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1": true, "::ffff:127.0.0.1": true, "192.0.2.9": false, "x": false} {
		if got := HasAddress(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

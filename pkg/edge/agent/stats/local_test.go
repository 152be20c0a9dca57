package stats

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

// gates hold up the walks through directories of these names.
type gates map[string]chan struct{}

// withVolumes returns a Collector whose pod has files of 1 MiB in volumes and one of 4 KiB in a container's logs.
func withVolumes(t *testing.T, held gates, volumes ...string) (*Collector, *clocktesting.FakePassiveClock) {
	t.Helper()
	c, clock, _ := newCollector(t, &fakeRuntime{})
	dir := t.TempDir()
	paths := LocalPaths{Logs: filepath.Join(dir, "logs")}
	for _, name := range volumes {
		paths.Volumes = append(paths.Volumes, LocalVolume{Name: name, Path: filepath.Join(dir, name), Memory: name == "memory"})
		write(t, filepath.Join(dir, name, "file"), 1<<20)
	}
	write(t, filepath.Join(paths.Logs, "one", "0.log"), 4<<10)
	c.config.Local = func(string) LocalPaths { return paths }
	c.disk.walk = func(ctx context.Context, root string) (size, error) {
		select {
		case <-held[filepath.Base(root)]:
		case <-ctx.Done():
		}
		return walk(ctx, root)
	}
	for _, name := range append(volumes, "one", "two") {
		if held[name] == nil {
			held[name] = make(chan struct{})
			close(held[name])
		}
	}
	t.Cleanup(c.Close)
	return c, clock
}

func write(t *testing.T, path string, bytes int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", bytes)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// settle waits until all that is being measured has been, but for directories of that name.
func settle(c *Collector, except string) {
	c.disk.mu.Lock()
	var measuring []chan struct{}
	for path, dir := range c.disk.directories {
		if dir.measuring != nil && filepath.Base(path) != except {
			measuring = append(measuring, dir.measuring)
		}
	}
	c.disk.mu.Unlock()
	for _, done := range measuring {
		<-done
	}
}

// look returns what is known at the moment.
func look(t *testing.T, c *Collector) *statsapi.PodStats {
	t.Helper()
	pods, err := c.Pods(t.Context(), sets.New("uid"), false)
	if err != nil {
		t.Fatal(err)
	}
	return pods["uid"]
}

// bytesOf are the MiB of volumes.
func bytesOf(pod *statsapi.PodStats) map[string]uint64 {
	sizes := map[string]uint64{}
	for _, v := range pod.VolumeStats {
		sizes[v.Name] = *v.UsedBytes >> 20
	}
	return sizes
}

// TestLargeVolume has one volume that takes longer to walk through than anybody waits.
func TestLargeVolume(t *testing.T) {
	held := gates{"huge": make(chan struct{})}
	c, clock := withVolumes(t, held, "huge", "small")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Pods(ctx, sets.New("uid"), true); err != nil {
		t.Fatal(err)
	}
	settle(c, "huge")
	pod := look(t, c)
	if sizes := bytesOf(pod); len(sizes) != 1 || sizes["small"] != 1 {
		t.Errorf("while one is being measured: %v", sizes)
	}
	if pod.EphemeralStorage != nil {
		t.Errorf("a sum without the large one: %d", *pod.EphemeralStorage.UsedBytes)
	}
	close(held["huge"])
	settle(c, "")
	if sizes := bytesOf(look(t, c)); sizes["huge"] != 1 {
		t.Errorf("it has been measured, but got %v", sizes)
	}
	// Later on, what it was is told while it is measured again.
	at := clock.Now()
	clock.SetTime(at.Add(DefaultDiskPeriod))
	c.disk.walk = func(ctx context.Context, root string) (size, error) {
		<-ctx.Done()
		return size{}, ctx.Err()
	}
	pod = look(t, c)
	if sizes := bytesOf(pod); sizes["huge"] != 1 || pod.EphemeralStorage == nil || *pod.EphemeralStorage.UsedBytes < 2<<20 {
		t.Errorf("while it is measured again: %v, sum %v", sizes, pod.EphemeralStorage)
	}
	if got := pod.VolumeStats[0].Time; !got.Time.Equal(at) {
		t.Errorf("measured at %v, want %v", got, at)
	}
}

// TestLocal checks what is measured, and when the sum is known.
func TestLocal(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*testing.T, *Collector, LocalPaths)
		want   map[string]uint64
		sum    *uint64 // MiB
		log    bool
	}{
		"all of it": {want: map[string]uint64{"data": 1, "memory": 1}, sum: ptr.To[uint64](1), log: true},
		"a volume that is not made": {want: map[string]uint64{"memory": 1}, sum: ptr.To[uint64](0), log: true, change: func(t *testing.T, _ *Collector, p LocalPaths) {
			if err := os.RemoveAll(p.Volumes[0].Path); err != nil {
				t.Fatal(err)
			}
		}},
		"a volume that cannot be read": {want: map[string]uint64{"memory": 1}, log: true, change: func(_ *testing.T, c *Collector, p LocalPaths) {
			c.disk.walk = func(ctx context.Context, root string) (size, error) {
				if root == p.Volumes[0].Path {
					return size{}, syscall.EIO
				}
				return walk(ctx, root)
			}
		}},
		"a pod that is gone": {want: map[string]uint64{}, change: func(_ *testing.T, c *Collector, _ LocalPaths) {
			c.config.Local = func(string) LocalPaths { return LocalPaths{} }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := withVolumes(t, gates{}, "data", "memory")
			if tc.change != nil {
				tc.change(t, c, c.config.Local("uid"))
			}
			s, err := c.Summary(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			pod := &s.Pods[0]
			sizes := bytesOf(pod)
			if len(sizes) != len(tc.want) {
				t.Errorf("got %v, want %v", sizes, tc.want)
			}
			for volume, want := range tc.want {
				if sizes[volume] != want {
					t.Errorf("%s has %d MiB, want %d", volume, sizes[volume], want)
				}
			}
			var sum *uint64
			if pod.EphemeralStorage != nil {
				sum = ptr.To(*pod.EphemeralStorage.UsedBytes >> 20)
			}
			if !ptr.Equal(sum, tc.sum) {
				t.Errorf("the sum is %v, want %v", ptr.Deref(sum, 999), ptr.Deref(tc.sum, 999))
			}
			if log := pod.Containers[0].Logs; (log != nil) != tc.log || pod.Containers[1].Logs != nil {
				t.Errorf("logs %v and %v", log, pod.Containers[1].Logs)
			}
		})
	}
}

// TestDiskOfSomePods checks that the disk is not read for pods that nobody asks about, and what was known is forgotten.
func TestDiskOfSomePods(t *testing.T) {
	c, clock := withVolumes(t, gates{}, "data")
	pods, err := c.Pods(t.Context(), nil, true)
	if err != nil || pods["uid"] == nil || pods["uid"].EphemeralStorage != nil || len(c.disk.directories) != 0 {
		t.Errorf("got %v, %v; %d directories were measured", pods["uid"], err, len(c.disk.directories))
	}
	if pods, err = c.Pods(t.Context(), sets.New("uid", "other"), true); err != nil || len(pods["uid"].VolumeStats) != 1 {
		t.Errorf("got %v, %v", pods["uid"], err)
	}
	clock.SetTime(clock.Now().Add(remember + time.Second))
	c.disk.forget()
	if len(c.disk.directories) != 0 {
		t.Errorf("%d directories are still known", len(c.disk.directories))
	}
}

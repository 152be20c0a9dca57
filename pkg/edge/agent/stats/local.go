package stats

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// DefaultDiskPeriod is for how long the size of a directory is taken to be what it was, as by the kubelet.
const DefaultDiskPeriod = time.Minute

// LocalVolume is a volume whose content counts as the pod's own.
type LocalVolume struct {
	Name, Path string
	// Memory says that it takes no disk.
	Memory bool
}

// LocalPaths are where a pod keeps data on the device.
type LocalPaths struct {
	Volumes []LocalVolume
	// Logs is a directory with one per container.
	Logs string
}

// disk measures directories, and remembers for a while how large they were: to walk through one costs.
type disk struct {
	mu    sync.Mutex
	sizes map[string]size
}

type size struct {
	at            time.Time
	bytes, inodes uint64
}

// errTooLate ends a walk that takes longer than anybody waits.
var errTooLate = errors.New("too late")

// measure returns the size of a directory, nil if it cannot be told.
func (d *disk) measure(ctx context.Context, path string, now time.Time, period time.Duration) *size {
	d.mu.Lock()
	last, ok := d.sizes[path]
	d.mu.Unlock()
	if ok && now.Sub(last.at) < period && !now.Before(last.at) {
		return &last
	}
	s, err := walk(ctx, path)
	if err != nil {
		return nil
	}
	s.at = now
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sizes == nil {
		d.sizes = map[string]size{}
	}
	d.sizes[path] = s
	return &s
}

// forget drops what was not measured for long: those pods are gone.
func (d *disk) forget(before time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, s := range d.sizes {
		if s.at.Before(before) {
			delete(d.sizes, path)
		}
	}
}

// walk adds up what the files below a directory take, without those of other file systems and without
// counting one with several names twice. What vanishes meanwhile takes nothing.
func walk(ctx context.Context, root string) (size, error) {
	var total size
	var device uint64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return errTooLate
		}
		if err != nil {
			if path == root {
				return err
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // it has just been removed
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if path == root {
			device = uint64(st.Dev) //nolint:unconvert // its type depends on the architecture
		} else if uint64(st.Dev) != device { //nolint:unconvert // see above
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !entry.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		total.bytes += uint64(st.Blocks) * 512
		total.inodes++
		return nil
	})
	return total, err
}

// addLocal adds to pods what they keep on the device's disk: logs, volumes, and the sum of it with their
// containers' own files.
func (c *Collector) addLocal(ctx context.Context, pods []statsapi.PodStats, now time.Time) {
	if c.config.Local == nil {
		return
	}
	at := metav1.NewTime(now)
	figures := func(s *size) statsapi.FsStats {
		return statsapi.FsStats{Time: at, UsedBytes: &s.bytes, InodesUsed: &s.inodes}
	}
	for i := range pods {
		pod := &pods[i]
		paths := c.config.Local(pod.PodRef.UID)
		var sum size
		for _, v := range paths.Volumes {
			s := c.disk.measure(ctx, v.Path, now, c.config.DiskPeriod)
			if s == nil {
				continue
			}
			pod.VolumeStats = append(pod.VolumeStats, statsapi.VolumeStats{Name: v.Name, FsStats: figures(s)})
			if !v.Memory {
				sum.bytes, sum.inodes = sum.bytes+s.bytes, sum.inodes+s.inodes
			}
		}
		for j := range pod.Containers {
			container := &pod.Containers[j]
			if s := c.disk.measure(ctx, filepath.Join(paths.Logs, container.Name), now, c.config.DiskPeriod); s != nil {
				f := figures(s)
				container.Logs = &f
				sum.bytes, sum.inodes = sum.bytes+s.bytes, sum.inodes+s.inodes
			}
			if container.Rootfs != nil && container.Rootfs.UsedBytes != nil {
				sum.bytes += *container.Rootfs.UsedBytes
			}
			if container.Rootfs != nil && container.Rootfs.InodesUsed != nil {
				sum.inodes += *container.Rootfs.InodesUsed
			}
		}
		f := figures(&sum)
		pod.EphemeralStorage = &f
	}
	c.disk.forget(now.Add(-10 * c.config.DiskPeriod))
}

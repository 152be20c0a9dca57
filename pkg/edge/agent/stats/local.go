package stats

import (
	"context"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

// patience is how long is waited for directories that are being measured.
const patience = 10 * time.Second

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

func (p *LocalPaths) log(container string) string { return filepath.Join(p.Logs, container) }

// addLocal adds to pods what they keep on the device's disk, as far as it is known: logs, volumes, and the sum of it with
// their containers' own files. Wait says to wait a while for what is not known, or was measured too long ago.
func (c *Collector) addLocal(ctx context.Context, pods []*statsapi.PodStats, now time.Time, wait bool) {
	if c.config.Local == nil || len(pods) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var measuring []<-chan struct{}
	measure := func(path string) {
		if done := c.disk.measure(path); done != nil {
			measuring = append(measuring, done)
		}
	}
	all := make([]LocalPaths, len(pods))
	for i, pod := range pods {
		if all[i] = c.config.Local(pod.PodRef.UID); all[i].Logs == "" {
			continue // it is not known any more
		}
		for _, v := range all[i].Volumes {
			measure(v.Path)
		}
		for j := range pod.Containers {
			measure(all[i].log(pod.Containers[j].Name))
		}
	}
	for i := 0; wait && i < len(measuring); i++ {
		select {
		case <-measuring[i]:
		case <-ctx.Done():
			wait = false
		}
	}
	for i, pod := range pods {
		if all[i].Logs != "" {
			c.addPaths(pod, &all[i], now)
		}
	}
	c.disk.forget()
}

// addPaths adds what is known of a pod's directories. The sum is left out if a part of it is not.
func (c *Collector) addPaths(pod *statsapi.PodStats, paths *LocalPaths, now time.Time) {
	var bytes, inodes uint64
	complete := true
	last := func(path string, counts bool) *statsapi.FsStats {
		s := c.disk.last(path)
		if s == nil {
			complete = complete && !counts
			return nil
		}
		if s.absent {
			return nil
		}
		if counts {
			bytes, inodes = bytes+s.bytes, inodes+s.inodes
		}
		return &statsapi.FsStats{Time: metav1.NewTime(s.at), UsedBytes: &s.bytes, InodesUsed: &s.inodes}
	}
	for _, v := range paths.Volumes {
		if s := last(v.Path, !v.Memory); s != nil {
			pod.VolumeStats = append(pod.VolumeStats, statsapi.VolumeStats{Name: v.Name, FsStats: *s})
		}
	}
	for i := range pod.Containers {
		container := &pod.Containers[i]
		container.Logs = last(paths.log(container.Name), true)
		if fs := container.Rootfs; fs != nil {
			bytes, inodes = bytes+ptr.Deref(fs.UsedBytes, 0), inodes+ptr.Deref(fs.InodesUsed, 0)
		}
	}
	if complete {
		pod.EphemeralStorage = &statsapi.FsStats{Time: metav1.NewTime(now), UsedBytes: &bytes, InodesUsed: &inodes}
	}
}

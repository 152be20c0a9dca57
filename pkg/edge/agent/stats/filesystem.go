package stats

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// imageFs is the file system of images, if the runtime tells.
func (c *Collector) imageFs(ctx context.Context, now time.Time) *statsapi.RuntimeStats {
	info, err := c.config.Runtime.ImageFsInfo(ctx)
	if err != nil || len(info.GetImageFilesystems()) == 0 {
		return nil
	}
	usage := info.ImageFilesystems[0]
	fs := fsStats(usage.GetFsId().GetMountpoint(), now)
	if fs == nil {
		return nil
	}
	fs.UsedBytes = valueOf(usage.GetUsedBytes())
	fs.InodesUsed = valueOf(usage.GetInodesUsed())
	return &statsapi.RuntimeStats{ImageFs: fs}
}

// LayersApart tells whether the containers' own files lie in another file system than what else pods keep on the device.
func (c *Collector) LayersApart(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := c.config.Runtime.ImageFsInfo(ctx)
	layers := info.GetContainerFilesystems()
	if len(layers) == 0 { // older runtimes tell of images only, and keep both in one place
		layers = info.GetImageFilesystems()
	}
	if err != nil || len(layers) == 0 {
		return false
	}
	a, okA := fsIDOf(c.config.StateDir)
	b, okB := fsIDOf(layers[0].GetFsId().GetMountpoint())
	return okA && okB && !a.same(b)
}

// fsID is by which a file system is known.
type fsID struct {
	device, kind uint64
	half         int32 // of what statfs tells as its id
}

func fsIDOf(path string) (fsID, bool) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Stat(path, &st) != nil || unix.Statfs(path, &fs) != nil {
		return fsID{}, false
	}
	// A type has 32 bits, and is negative where statfs has no more.
	return fsID{device: uint64(st.Dev), kind: uint64(uint32(fs.Type)), half: fs.Fsid.Val[0]}, true //nolint:unconvert // the types depend on the architecture
}

// same takes the subvolumes of a btrfs for one file system: each has a device of its own, but they share the room and this
// half of the id.
func (a fsID) same(b fsID) bool {
	if a.kind != unix.BTRFS_SUPER_MAGIC {
		return a.device == b.device
	}
	return a.kind == b.kind && a.half == b.half
}

// fsStats is nil if the file system cannot be read.
func fsStats(path string, now time.Time) *statsapi.FsStats {
	var st unix.Statfs_t
	if path == "" || unix.Statfs(path, &st) != nil {
		return nil
	}
	size := uint64(st.Bsize)
	value := func(n uint64) *uint64 { return &n }
	return &statsapi.FsStats{
		Time: metav1.NewTime(now), AvailableBytes: value(st.Bavail * size), CapacityBytes: value(st.Blocks * size), UsedBytes: value((st.Blocks - st.Bfree) * size),
		InodesFree: value(st.Ffree), Inodes: value(st.Files), InodesUsed: value(st.Files - st.Ffree),
	}
}

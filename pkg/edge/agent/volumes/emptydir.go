package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// emptyDirMode lets containers of any user write. It is what a volume without a mode gets, a tmpfs with the
// sticky bit.
const emptyDirMode = 0o777

// setupEmptyDir makes the directory. Once made it belongs to the containers: nothing is changed later,
// except that a tmpfs that a reboot took away is mounted again. It is there with its mode and group or not at
// all, wherever the making is cut off.
func setupEmptyDir(pod *v1.Pod, source *v1.EmptyDirVolumeSource, path string, memoryBytes int64) error {
	mode := os.FileMode(emptyDirMode)
	if source.Mode != nil {
		mode = os.FileMode(*source.Mode) & os.ModePerm
		if *source.Mode&unix.S_ISVTX != 0 {
			mode |= os.ModeSticky
		}
	}
	switch source.Medium {
	case v1.StorageMediumDefault:
		return makeEmptyDir(path, mode, fsGroup(pod))
	case v1.StorageMediumMemory:
		if source.Mode == nil {
			mode |= os.ModeSticky // as the kernel makes a tmpfs, and the kubelet leaves it
		}
		return mountEmptyDir(path, mode, fsGroup(pod), tmpfsSize(pod, source, memoryBytes))
	}
	return fmt.Errorf("storage medium %q is not supported: use the default medium or Memory", source.Medium)
}

// makeEmptyDir makes the directory under a name that no volume has, and gives it its own when all is done.
func makeEmptyDir(path string, mode os.FileMode, gid *int64) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	making := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	err := errors.Join(
		os.RemoveAll(making), // what was cut off
		os.MkdirAll(making, dirMode),
	)
	if err != nil {
		return err
	}
	if err := os.Chmod(making, mode); err != nil { // MkdirAll went through the umask
		return err
	}
	if err := setOwnership(making, gid, false); err != nil {
		return err
	}
	return os.Rename(making, path)
}

// mountEmptyDir mounts a tmpfs that has its mode and group from the first.
func mountEmptyDir(path string, mode os.FileMode, gid *int64, bytes int64) error {
	if err := os.MkdirAll(path, dirMode); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(real); mounted || err != nil {
		return err
	}
	var options string
	if gid != nil {
		mode = dirModeFor(mode, gid, false)
		options = fmt.Sprintf("gid=%d,", *gid)
	}
	options += fmt.Sprintf("mode=%o", unixMode(mode))
	if bytes > 0 {
		options += fmt.Sprintf(",size=%d", bytes)
	}
	if err := mountTmpfs(real, unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// unixMode is how the kernel writes a mode.
func unixMode(mode os.FileMode) uint32 {
	bits := uint32(mode.Perm())
	if mode&os.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	if mode&os.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	return bits
}

// tmpfsSize is the least of the volume's limit, the pod's memory limit and the device's memory.
func tmpfsSize(pod *v1.Pod, source *v1.EmptyDirVolumeSource, memoryBytes int64) int64 {
	size := memoryBytes
	lower := func(limit int64) {
		if limit > 0 && (size == 0 || limit < size) {
			size = limit
		}
	}
	lower(memoryLimit(pod))
	if source.SizeLimit != nil {
		lower(source.SizeLimit.Value())
	}
	return size
}

// memoryLimit is the limit of a pod as a whole, 0 without one. The sum of its containers is one only if all of them have
// one, those that start first included.
func memoryLimit(pod *v1.Pod) int64 {
	unlimited := func(c v1.Container) bool { return c.Resources.Limits.Memory().IsZero() }
	whole := pod.Spec.Resources != nil && !pod.Spec.Resources.Limits.Memory().IsZero()
	if !whole && slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), unlimited) {
		return 0
	}
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	return limits.Memory().Value()
}

package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// emptyDirMode lets containers of any user write. It is what a volume without a mode gets, a tmpfs with the
// sticky bit.
const emptyDirMode = 0o777

// setupEmptyDir makes the directory. Once made it belongs to the containers: nothing is changed later,
// except that a tmpfs that a reboot took away is mounted again.
func setupEmptyDir(pod *v1.Pod, source *v1.EmptyDirVolumeSource, path string, memoryBytes int64) error {
	if source.Medium != v1.StorageMediumDefault && source.Medium != v1.StorageMediumMemory {
		return fmt.Errorf("storage medium %q is not supported: use the default medium or Memory", source.Medium)
	}
	mode := os.FileMode(emptyDirMode)
	switch {
	case source.Mode == nil && source.Medium == v1.StorageMediumMemory:
		mode |= os.ModeSticky // as the kernel makes a tmpfs, and the kubelet leaves it
	case source.Mode != nil:
		mode = os.FileMode(*source.Mode) & os.ModePerm
		if *source.Mode&unix.S_ISVTX != 0 {
			mode |= os.ModeSticky
		}
	}
	_, err := os.Lstat(path)
	made := errors.Is(err, os.ErrNotExist)
	if made {
		if err = os.MkdirAll(path, dirMode); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if source.Medium == v1.StorageMediumMemory {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		mounted, err := mountinfo.Mounted(real)
		if err != nil {
			return err
		}
		if !mounted {
			options := fmt.Sprintf("mode=%o", emptyDirMode) // until the volume's own is set below
			if size := tmpfsSize(pod, source, memoryBytes); size > 0 {
				options += fmt.Sprintf(",size=%d", size)
			}
			if err := unix.Mount("tmpfs", real, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
				return errors.Join(fmt.Errorf("mount tmpfs: %w", err), os.Remove(path))
			}
			made = true
		}
	}
	if !made {
		return nil
	}
	if err := os.Chmod(path, mode); err != nil { // MkdirAll went through the umask
		return err
	}
	return setOwnership(path, fsGroup(pod), false)
}

// tmpfsSize is the least of the volume's limit, the pod's memory limit and the device's memory.
func tmpfsSize(pod *v1.Pod, source *v1.EmptyDirVolumeSource, memoryBytes int64) int64 {
	size := memoryBytes
	lower := func(limit int64) {
		if limit > 0 && (size == 0 || limit < size) {
			size = limit
		}
	}
	var sum int64
	for i := range pod.Spec.Containers {
		limit := pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		if limit == 0 {
			sum = 0
			break
		}
		sum += limit
	}
	lower(sum)
	if source.SizeLimit != nil {
		lower(source.SizeLimit.Value())
	}
	return size
}

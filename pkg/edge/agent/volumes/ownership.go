package volumes

import (
	"os"
	"path/filepath"
	"syscall"

	v1 "k8s.io/api/core/v1"
)

const (
	groupReadWrite = 0o660
	groupRead      = 0o440
	groupExecute   = 0o110
)

// fsGroup is the group that owns the pod's volumes, nil if the pod does not say.
func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// setOwnership gives a volume to a group: files get its rights, directories hand the group on to what
// is created in them.
func setOwnership(dir string, gid *int64, readOnly bool) error {
	if gid == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return setOwnershipOf(path, info, gid, readOnly)
	})
}

// setOwnershipOf does that for one file or directory. Nothing is written if nothing changes.
func setOwnershipOf(path string, info os.FileInfo, gid *int64, readOnly bool) error {
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int64(stat.Gid) != *gid {
		if err := os.Lchown(path, -1, int(*gid)); err != nil {
			return err
		}
	}
	mode := fileModeFor(info.Mode(), gid, readOnly)
	if info.IsDir() {
		mode = dirModeFor(mode, gid, readOnly)
	}
	if mode == info.Mode() || info.Mode()&os.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(path, mode)
}

// setRootOwnership gives the root directory of a volume to the group. It hands the group on to the links in it.
func setRootOwnership(dir string, gid *int64) error {
	if gid == nil {
		return nil
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	return setOwnershipOf(dir, info, gid, true)
}

// fileModeFor adds what the group may do.
func fileModeFor(mode os.FileMode, gid *int64, readOnly bool) os.FileMode {
	switch {
	case gid == nil:
		return mode
	case readOnly:
		return mode | groupRead
	}
	return mode | groupReadWrite
}

// dirModeFor adds what the group may do in a directory, which hands it on.
func dirModeFor(mode os.FileMode, gid *int64, readOnly bool) os.FileMode {
	return fileModeFor(mode, gid, readOnly) | os.ModeSetgid | groupExecute
}

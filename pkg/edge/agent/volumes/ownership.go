package volumes

import (
	"os"
	"path/filepath"

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
		if err := os.Lchown(path, -1, int(*gid)); err != nil {
			return err
		}
		if entry.Type()&os.ModeSymlink != 0 {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := fileModeFor(info.Mode(), gid, readOnly)
		if entry.IsDir() {
			mode |= os.ModeSetgid | groupExecute
		}
		return os.Chmod(path, mode)
	})
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

package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// hostPath is a volume that is a part of the host's own file system.
type hostPath struct {
	path string
	kind v1.HostPathType
	// allowed tells whether the volume may be at a path without symbolic links; nil allows everything.
	allowed func(string) bool
}

func newHostPath(source *v1.HostPathVolumeSource, allowed func(string) bool) *hostPath {
	return &hostPath{path: source.Path, kind: ptr.Deref(source.Type, v1.HostPathUnset), allowed: allowed}
}

// HostPath returns from where a hostPath volume is mounted into a container. Where not all of the host is
// allowed, a container may have put symbolic links into what is: see pin.
func (v *Volumes) HostPath(pod *v1.Pod, mounted Mounted, volume, container string, index int) (string, error) {
	if mounted.host == nil || mounted.host.allowed == nil {
		return mounted.Path, nil
	}
	fd, err := mounted.host.open(true)
	if err != nil {
		return "", fmt.Errorf("volume %q: %w", volume, err)
	}
	defer unix.Close(fd)
	if path, err := v.pin(fd, mounted, pod, volume, container, index); path != "" || err != nil {
		return path, err
	}
	return mounted.Path, nil
}

// setup checks the type of a host path, and creates it where the type asks for that. A path without a
// type may be missing: it is the runtime's to say what that means, unless not all of the host is allowed.
func (h *hostPath) setup() error {
	if h.kind == v1.HostPathUnset && h.allowed == nil {
		return nil
	}
	fd, err := h.open(false)
	var stat unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &stat)
		unix.Close(fd)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	want, what := uint32(0), ""
	switch h.kind {
	case v1.HostPathUnset:
		return nil
	case v1.HostPathDirectoryOrCreate, v1.HostPathDirectory:
		want, what = unix.S_IFDIR, "directory"
	case v1.HostPathFileOrCreate, v1.HostPathFile:
		want, what = unix.S_IFREG, "file"
	case v1.HostPathSocket:
		want, what = unix.S_IFSOCK, "socket file"
	case v1.HostPathCharDev:
		want, what = unix.S_IFCHR, "character device"
	case v1.HostPathBlockDev:
		want, what = unix.S_IFBLK, "block device"
	default:
		return fmt.Errorf("%s is an invalid volume type", h.kind)
	}
	if stat.Mode&unix.S_IFMT != want {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.path, what)
	}
	return nil
}

// open opens the path (O_PATH), made if it is missing and its type asks for that; with unset also without
// a type, as a directory.
func (h *hostPath) open(unset bool) (int, error) {
	fd, missing, err := openNearest(h.path)
	for i := 0; err == nil && i < len(missing); i++ {
		var next int
		next, err = h.makeIn(fd, missing[i:], unset)
		unix.Close(fd)
		fd = next
	}
	if err != nil {
		return -1, err
	}
	if err := h.check(fd, ""); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// check tells whether the volume may be what is opened, or something of that name in it.
func (h *hostPath) check(fd int, name string) error {
	if h.allowed == nil {
		return nil
	}
	real, err := os.Readlink(procFD(fd))
	if err != nil {
		return err
	}
	if real = filepath.Join(real, name); !h.allowed(real) {
		return fmt.Errorf("%s leads to %s, which the device's own policy forbids (policy.hostPaths in its arhat.yaml)", h.path, real)
	}
	return nil
}

// makeIn makes the first of the missing names in a directory, and opens it.
func (h *hostPath) makeIn(dir int, missing []string, unset bool) (int, error) {
	name, flags := missing[0], unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC
	if err := h.check(dir, name); err != nil {
		return -1, err
	}
	err := error(unix.ENOENT)
	switch {
	case h.kind == v1.HostPathDirectoryOrCreate, h.kind == v1.HostPathUnset && unset:
		flags |= unix.O_DIRECTORY
		err = unix.Mkdirat(dir, name, dirMode)
	case h.kind == v1.HostPathFileOrCreate && len(missing) > 1:
		return -1, fmt.Errorf("hostPath type check failed: the directory %s of %s does not exist", filepath.Dir(h.path), h.path)
	case h.kind == v1.HostPathFileOrCreate:
		var fd int
		if fd, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
			err = unix.Close(fd)
		}
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, &os.PathError{Op: "create", Path: h.path, Err: err}
	}
	fd, err := unix.Openat(dir, name, flags, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: h.path, Err: err}
	}
	var stat unix.Stat_t
	if err = unix.Fstat(fd, &stat); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		err = unix.ELOOP // made by another, and it leads to what does not exist
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "open", Path: h.path, Err: err}
	}
	return fd, nil
}

// openNearest opens (O_PATH) the part of a path that exists, and returns the names that are missing below.
func openNearest(path string) (fd int, missing []string, err error) {
	existing := filepath.Clean(path)
	for {
		fd, err := unix.Open(existing, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, missing, nil
		}
		if !errors.Is(err, unix.ENOENT) || existing == filepath.Dir(existing) {
			return -1, nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		missing = append([]string{filepath.Base(existing)}, missing...)
		existing = filepath.Dir(existing)
	}
}

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxMirrored bounds the entries of a directory that is mirrored, see mounter.mirror.
const maxMirrored = 2048

// heldLocks are the locks of Spec.Locks.
var heldLocks []*os.File

// mounter makes the bind mounts of a container in the mount namespace of this process.
type mounter struct {
	mayMirror bool
	own       []string // mirrored directories and mounts made before, where anything may be created
}

// setupMounts makes the mounts of a Spec. The namespaces are there already, see Start.
func setupMounts(spec *Spec) error {
	if spec.Mode == MountNone {
		return nil
	}
	for _, path := range spec.Locks {
		// Held as long as this process lives; a finalizer must not close it.
		f, err := LockShared(path)
		if err != nil {
			return fmt.Errorf("cannot hold the mount point: %w", err)
		}
		heldLocks = append(heldLocks, f)
	}
	// What the host mounts later is seen here; nothing from here is seen there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot set up a mount namespace: %w", err)
	}
	mounts := slices.Clone(spec.Mounts)
	slices.SortStableFunc(mounts, func(a, b Mount) int {
		return strings.Count(filepath.Clean(a.Target), "/") - strings.Count(filepath.Clean(b.Target), "/")
	})
	// All sources are opened first: a mount may hide the source of the next.
	sources := make([]int, len(mounts))
	for i, m := range mounts {
		fd, err := unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cannot open %s, the source of the mount at %s: %w", m.Source, m.Target, err)
		}
		defer unix.Close(fd)
		sources[i] = fd
	}
	b := &mounter{mayMirror: spec.Mode == MountUserNamespace}
	for i, m := range mounts {
		if err := b.bind(sources[i], m); err != nil {
			return fmt.Errorf("cannot mount %s at %s: %w", m.Source, m.Target, err)
		}
	}
	return nil
}

func (b *mounter) bind(source int, m Mount) error {
	var st unix.Stat_t
	if err := unix.Fstat(source, &st); err != nil {
		return err
	}
	target, err := b.mountPoint(m.Target, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	if err := unix.Mount(procFD(source), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	b.own = append(b.own, target)
	propagation := uintptr(unix.MS_REC | unix.MS_PRIVATE)
	if m.HostToContainer {
		propagation = unix.MS_REC | unix.MS_SLAVE
	}
	if err := unix.Mount("", target, "", propagation, ""); err != nil {
		return err
	}
	if !m.ReadOnly {
		return nil
	}
	return remountReadOnly(target)
}

// remountReadOnly keeps the flags that the mount has: in a user namespace they cannot be cleared.
func remountReadOnly(target string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)
	for _, f := range []struct{ st, ms uintptr }{
		{unix.ST_NOSUID, unix.MS_NOSUID}, {unix.ST_NODEV, unix.MS_NODEV}, {unix.ST_NOEXEC, unix.MS_NOEXEC},
		{unix.ST_NOATIME, unix.MS_NOATIME}, {unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if uintptr(st.Flags)&f.st != 0 {
			flags |= f.ms
		}
	}
	return unix.Mount("", target, "", flags, "")
}

// mountPoint returns the path of a mount point without symbolic links. It makes a missing one where
// that leaves no trace on the host; elsewhere the runtime made it, or refused the container.
func (b *mounter) mountPoint(target string, directory bool) (string, error) {
	parent, missing, err := NearestExisting(target)
	if err != nil {
		return "", err
	}
	if len(missing) == 0 {
		return parent, nil
	}
	if !b.isOwn(parent) {
		if !b.mayMirror || parent == "/" {
			return "", fmt.Errorf("the mount point does not exist; create it on the device")
		}
		if err := b.mirror(parent); err != nil {
			return "", err
		}
	}
	return MakeMountPoint(parent, missing, directory, nil)
}

func (b *mounter) isOwn(dir string) bool {
	return slices.ContainsFunc(b.own, func(m string) bool { return dir == m || strings.HasPrefix(dir, m+"/") })
}

// mirror covers a directory with a private one that has the same entries, so that a mount point can
// be added without the right to do so on the host. Entries that the host adds later are not seen.
func (b *mounter) mirror(dir string) error {
	original, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer original.Close()
	entries, err := original.ReadDir(maxMirrored + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(entries) > maxMirrored {
		return fmt.Errorf("the mount point does not exist, and %s has too many entries to be mirrored", dir)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("cannot cover %s: %w", dir, err)
	}
	b.own = append(b.own, dir)
	for _, e := range entries {
		source := procFD(int(original.Fd())) + "/" + e.Name()
		if err := mirrorEntry(source, filepath.Join(dir, e.Name()), e); err != nil {
			return fmt.Errorf("cannot mirror %s: %w", filepath.Join(dir, e.Name()), err)
		}
	}
	return nil
}

func mirrorEntry(source, target string, e os.DirEntry) error {
	var err error
	switch {
	case e.Type()&os.ModeSymlink != 0:
		link, readErr := os.Readlink(source)
		if readErr != nil {
			return readErr
		}
		return os.Symlink(link, target)
	case e.IsDir():
		err = os.Mkdir(target, 0o755)
	default:
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	err = unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
	// What the user may not reach, or what is gone by now, is no loss.
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
		return os.Remove(target)
	}
	return err
}

func procFD(fd int) string {
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	utilio "k8s.io/utils/io"
)

const (
	// maxLinks bounds the symbolic links that one path may lead through, as the kernel does.
	maxLinks = 40
	// subpathMode is that of directories made for a subPath, before the volume's own mode is taken.
	subpathMode = 0o750
)

// SubPath returns a host path for a part of a volume. A container may have put symbolic links into
// the volume: none of them leads out of it, nor does one that is made later (see pin). The part is made as a
// directory if it does not exist.
func (v *Volumes) SubPath(pod *v1.Pod, mounted Mounted, volume, container string, index int, subPath string) (string, error) {
	if filepath.IsAbs(subPath) {
		return "", fmt.Errorf("subPath %q must not be absolute", subPath)
	}
	fd, err := openBeneath(mounted, subPath, true)
	if err != nil {
		return "", fmt.Errorf("subPath %q of volume %q: %w", subPath, volume, err)
	}
	defer unix.Close(fd)
	path, err := v.pin(fd, mounted, pod, volume, container, index)
	if err != nil {
		return "", fmt.Errorf("subPath %q of volume %q: %w", subPath, volume, err)
	}
	if path == "" {
		return os.Readlink(procFD(fd))
	}
	return path, nil
}

// pin makes a bind mount, for one mount of a container, of what is opened, so that a symbolic link made later
// changes nothing. Where the agent cannot mount there is none, and no path, if that does no harm: containers
// cannot make links in a volume that they cannot write, and with a runtime of the agent's rights they lead to
// nothing that containers could not have by themselves.
func (v *Volumes) pin(fd int, mounted Mounted, pod *v1.Pod, volume, container string, index int) (string, error) {
	if !mayMount() {
		if v.agentRights || mounted.ReadOnly {
			return "", nil
		}
		return "", errors.New("by a symbolic link a container could lead the container runtime elsewhere: run arhat as root, with CAP_SYS_ADMIN, which can prevent that")
	}
	target := filepath.Join(v.PodDir(string(pod.UID)), subpathsDir, volume, container, strconv.Itoa(index))
	if err := bindMount(procFD(fd), target); err != nil {
		return "", err
	}
	return target, nil
}

// procFD is a path to what is opened.
func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// ReadFile reads a file of a volume, of at most limit bytes. As with SubPath, nothing that a container has
// put into the volume leads out of it.
func ReadFile(mounted Mounted, path string, limit int64) ([]byte, error) {
	fd, err := openBeneath(mounted, path, false)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(procFD(fd))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := utilio.ReadAtMost(f, limit+1)
	if errors.Is(err, utilio.ErrLimitReached) {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return data, err
}

// IsNotExist tells whether an error of ReadFile means that there is no such file.
func IsNotExist(err error) bool { return errors.Is(err, unix.ENOENT) }

// bindMount mounts source at target in place of what is mounted there.
func bindMount(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), subpathMode); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(filepath.Dir(target))
	if err != nil {
		return err
	}
	point := filepath.Join(real, filepath.Base(target))
	if err := unmountBelow(point); err != nil {
		return err
	}
	if err := os.Remove(point); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(point, subpathMode)
	} else {
		var f *os.File
		if f, err = os.OpenFile(point, os.O_CREATE|os.O_EXCL, 0o640); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(source, point, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind mount %s: %w", point, err)
	}
	return nil
}

// openBeneath opens a path (O_PATH) in a volume component by component, so that what the path leads
// through is what was checked. Symbolic links are followed as long as they stay in the volume.
func openBeneath(mounted Mounted, path string, create bool) (int, error) {
	rootFD, err := mounted.open()
	if err != nil {
		return -1, err
	}
	w := &walker{fds: []int{rootFD}}
	defer w.closeAll()
	pending := strings.Split(filepath.Clean(path), "/")
	for len(pending) > 0 {
		name := pending[0]
		pending = pending[1:]
		more, err := w.step(name, create)
		if err != nil {
			return -1, err
		}
		pending = append(more, pending...)
	}
	return unix.FcntlInt(uintptr(w.top()), unix.F_DUPFD_CLOEXEC, 0)
}

// walker is a path below a root: one descriptor for each directory that leads to where it stands.
type walker struct {
	fds   []int
	links int
}

func (w *walker) top() int { return w.fds[len(w.fds)-1] }

func (w *walker) closeAll() {
	for _, fd := range w.fds {
		unix.Close(fd)
	}
}

// step goes to one component. For a symbolic link it goes nowhere and returns the components to take
// in its place.
func (w *walker) step(name string, create bool) ([]string, error) {
	switch name {
	case "", ".":
		return nil, nil
	case "..":
		if len(w.fds) == 1 {
			return nil, errors.New("it leads out of the volume")
		}
		unix.Close(w.top())
		w.fds = w.fds[:len(w.fds)-1]
		return nil, nil
	}
	fd, err := unix.Openat(w.top(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && create {
		if err = makeDir(w.top(), name); err == nil {
			fd, err = unix.Openat(w.top(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	}
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		w.fds = append(w.fds, fd)
		return nil, nil
	}
	defer unix.Close(fd)
	if w.links++; w.links > maxLinks {
		return nil, unix.ELOOP
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return nil, err
	}
	target := string(buf[:n])
	if filepath.IsAbs(target) {
		return nil, errors.New("it leads out of the volume")
	}
	return strings.Split(target, "/"), nil
}

// makeDir makes a directory with the mode and owner of the one it is in.
func makeDir(parent int, name string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(parent, &stat); err != nil {
		return err
	}
	if err := unix.Mkdirat(parent, name, subpathMode); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, -1, int(stat.Gid)); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	return unix.Fchmod(fd, stat.Mode&0o7777|0o700)
}

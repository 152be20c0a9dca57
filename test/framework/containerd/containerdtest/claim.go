package containerdtest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/test/framework/containerd"
)

const (
	dirPrefix = "aranya-ctrd-"
	// claimFile is locked as long as the process lives whose directory it is in. It holds the subnet.
	claimFile = "claim"
	// turnFile is locked while directories are made and leftovers removed, one process at a time.
	turnFile = "aranya-ctrd.lock"
)

// claim is a directory and a subnet that nobody else uses.
type claim struct {
	dir    string
	subnet netip.Prefix
	lock   *os.File
}

// newClaim removes what processes have left that were killed, and takes what is free.
func newClaim() (*claim, error) {
	turn, err := lockFile(filepath.Join(os.TempDir(), turnFile), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	taken, err := removeLeftovers()
	if err != nil {
		return nil, err
	}
	subnet, err := freeSubnet(taken)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(dir, claimFile), unix.LOCK_EX)
	if err == nil {
		_, err = lock.WriteString(subnet.String())
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &claim{dir: dir, subnet: subnet, lock: lock}, nil
}

// end removes everything. What cannot be removed is left to the next process.
func (c *claim) end() error {
	defer c.lock.Close()
	return remove(c.dir)
}

// lockFile opens a file, or makes it, and locks it. The lock ends with the process, or with the file's Close.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// removeLeftovers removes the directories whose processes have ended without doing it, and all that runs in
// them. It returns the subnets of the others.
func removeLeftovers() (taken []netip.Prefix, err error) {
	files, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*", claimFile))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		if !isOwn(dir) {
			continue
		}
		lock, err := lockFile(file, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			text, _ := os.ReadFile(file)
			if subnet, err := netip.ParsePrefix(string(text)); err == nil {
				taken = append(taken, subnet)
			}
		case errors.Is(err, fs.ErrNotExist): // it has just gone
		case err != nil:
			return nil, err
		default:
			err := remove(dir)
			_ = lock.Close()
			if err != nil {
				return nil, fmt.Errorf("removing what a former run has left in %s: %w", dir, err)
			}
		}
	}
	return taken, nil
}

// isOwn says whether a directory is this user's, not somebody else's with a name of ours.
func isOwn(dir string) bool {
	var stat unix.Stat_t
	return unix.Lstat(dir, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR && int(stat.Uid) == os.Geteuid()
}

// remove ends the containerd in a directory, and removes the directory and what else has its name.
func remove(dir string) error {
	if err := errors.Join(containerd.Stop(filepath.Join(dir, serverDir)), containerd.UnmountBelow(dir)); err != nil {
		return err // what is mounted must not be deleted
	}
	return errors.Join(removeCgroups(filepath.Base(dir)), os.RemoveAll(dir))
}

// removeCgroups removes the cgroups of a directory's name, of either version.
func removeCgroups(name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/*_", "/sys/fs/cgroup/*/*_"} {
		roots, err := filepath.Glob(pattern + name)
		errs = append(errs, err)
		for _, root := range roots {
			var dirs []string
			_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(dirs) {
				errs = append(errs, os.Remove(dir))
			}
		}
	}
	return errors.Join(errs...)
}

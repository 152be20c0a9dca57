package shim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LockShared keeps LockExclusive from succeeding on a directory or file, until it is closed.
func LockShared(path string) (*os.File, error) { return lock(path, unix.LOCK_SH) }

// LockExclusive fails if anybody holds a lock on a directory or file.
func LockExclusive(path string) (*os.File, error) { return lock(path, unix.LOCK_EX) }

func lock(path string, how int) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "lock", Path: path, Err: errors.New("is neither a directory nor a regular file")}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, f.Close())
	}
	return f, nil
}

// NearestExisting splits a path into the part that exists, without symbolic links, and the names
// that are missing below it.
func NearestExisting(path string) (existing string, missing []string, err error) {
	existing = filepath.Clean(path)
	for {
		resolved, err := filepath.EvalSymlinks(existing)
		if err == nil {
			return resolved, missing, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
		if info, lstatErr := os.Lstat(existing); lstatErr == nil && info.Mode()&fs.ModeSymlink != 0 {
			return "", nil, &fs.PathError{Op: "mount", Path: existing, Err: errors.New("is a symbolic link that leads nowhere")}
		}
		missing = append([]string{filepath.Base(existing)}, missing...)
		existing = filepath.Dir(existing)
	}
}

// MakeMountPoint makes the missing names below a directory: directories, the last one an empty file
// unless a directory is wanted. Each path that was really made is passed to made.
func MakeMountPoint(parent string, missing []string, directory bool, made func(path string)) (string, error) {
	path := parent
	for i, name := range missing {
		path = filepath.Join(path, name)
		var err error
		if i < len(missing)-1 || directory {
			err = os.Mkdir(path, 0o755)
		} else {
			var f *os.File
			if f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err == nil {
				err = f.Close()
			}
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		if err == nil && made != nil {
			made(path)
		}
	}
	return strings.TrimSuffix(path, "/"), nil
}

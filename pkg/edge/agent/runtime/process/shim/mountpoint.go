package shim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

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

// Package diskfile reads and writes the agent's small files. What belongs here is what packages need that know
// nothing else of each other: that a file is there whole or not at all whenever the power goes, and that none is
// read that is larger than it can be. What a file means is for the package that it is of.
package diskfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	utilio "k8s.io/utils/io"
)

// tempPrefix begins the names of files that Replace has not finished. One stays where it was cut off, until Clean.
const tempPrefix = ".new-"

// Replace writes a file, with mode 0600, so that it is there whole or not at all. With sync that holds after a power cut,
// too. Which of the two is there then, the old or the new one, is certain only after SyncDir.
func Replace(path string, data []byte, sync bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Clean removes from a directory what a crash in the middle of Replace has left. Nobody may write there meanwhile.
func Clean(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return IgnoreNotExist(err)
	}
	var errs []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), tempPrefix) {
			errs = append(errs, IgnoreNotExist(os.Remove(filepath.Join(dir, entry.Name()))))
		}
	}
	return errors.Join(errs...)
}

// SyncDir makes durable what was made, renamed and removed in a directory.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Read reads a file of at most limit bytes.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := utilio.ReadAtMost(f, limit+1)
	if errors.Is(err, utilio.ErrLimitReached) {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

// IgnoreNotExist leaves out the error that a file does not exist.
func IgnoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

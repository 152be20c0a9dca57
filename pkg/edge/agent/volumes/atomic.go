package volumes

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

const (
	dataLink    = "..data"
	newDataLink = "..data_tmp"
	// dataDirPattern makes the names of the directories that dataLink points to.
	dataDirPattern = "..data-*"
)

// writeAtomically replaces the content of a volume so that a reader sees either all old or all new
// files: they lie in a directory of their own, ..data is a symbolic link to it that is exchanged by
// rename, and each name that users see is a link through ..data. Nothing is written if nothing
// changed.
func writeAtomically(dir string, files []file, gid *int64) error {
	sort.Slice(files, func(i, j int) bool { return files[i].path < files[j].path })
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil {
		same, err := sameContent(filepath.Join(dir, old), files, gid)
		if err != nil {
			return err
		}
		if same {
			// The update that wrote it may have been cut off before its end.
			return updateLinks(dir, files, old)
		}
	}
	fresh, err := os.MkdirTemp(dir, dataDirPattern)
	if err != nil {
		return err
	}
	if err := writeFiles(fresh, files, gid); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	tmp := filepath.Join(dir, newDataLink)
	if err := os.RemoveAll(tmp); err != nil { // left of an update that was cut off, or a subPath of that name
		return err
	}
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	return updateLinks(dir, files, filepath.Base(fresh))
}

// updateLinks makes the links that users see, and removes those and the data of before. It leaves directories
// that were made for a subPath, and writes nothing if all is as it should be.
func updateLinks(dir string, files []file, current string) error {
	want := map[string]bool{}
	for _, f := range files {
		name, _, _ := strings.Cut(f.path, "/")
		if want[name] {
			continue
		}
		want[name] = true
		link := filepath.Join(dir, name)
		if target, err := os.Readlink(link); err == nil && target == filepath.Join(dataLink, name) {
			continue
		}
		if err := os.RemoveAll(link); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(dataLink, name), link); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		name := entry.Name()
		if name == dataLink || name == current || want[name] || (entry.IsDir() && !strings.HasPrefix(name, "..")) {
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

func writeFiles(dir string, files []file, gid *int64) error {
	for _, f := range files {
		path := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
		if err := os.Chmod(path, f.mode); err != nil { // exactly, whatever the umask
			return err
		}
		if f.uid != nil {
			if err := os.Chown(path, int(*f.uid), -1); err != nil {
				return err
			}
		}
	}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return os.Chmod(path, dirMode) // as with files
	})
	if err != nil {
		return err
	}
	return setOwnership(dir, gid, true)
}

// sameContent tells whether dir holds exactly these files, which are sorted.
func sameContent(dir string, files []file, gid *int64) (bool, error) {
	var have []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			relative, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			have = append(have, relative)
		}
		return nil
	})
	if errors.Is(err, os.ErrNotExist) || len(have) != len(files) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	sort.Strings(have)
	for i, f := range files {
		if have[i] != f.path {
			return false, nil
		}
		path := filepath.Join(dir, f.path)
		info, err := os.Lstat(path)
		if err != nil {
			return false, err
		}
		if info.Mode().Perm() != fileModeFor(f.mode, gid, true).Perm() {
			return false, nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		if !bytes.Equal(data, f.data) {
			return false, nil
		}
	}
	return true, nil
}

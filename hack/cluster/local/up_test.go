package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes files below a new directory.
func tree(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A directory that never held a cluster may be anything, like somebody's home.
func TestUpSparesForeignFiles(t *testing.T) {
	bin := tree(t, map[string]string{"kubernetes": "", "cluster": "", "aranya-apiserver": "", "arhat": "", "kubectl-edge": ""})
	for name, file := range map[string]string{
		"bin": "bin/tool", "logs": "logs/mail.log", "kubeconfig": "kubeconfig", "devices": "devices/list", "another program's state": stateFile,
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, map[string]string{file: "{}"})
			_, err := Up(t.Context(), Options{Dir: dir, Bin: bin, Source: "../../.."})
			if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, strings.Split(file, "/")[0])) {
				t.Errorf("error %v", err)
			}
			var left []string
			err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && !entry.IsDir() {
					left = append(left, path)
				}
				return err
			})
			if err != nil || len(left) != 1 || left[0] != filepath.Join(dir, file) {
				t.Errorf("files %v, %v", left, err)
			}
		})
	}
}

// A cluster gets its directory without anything of the one before, and beside other files.
func TestPrepare(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"for the first time":     {"notes.txt": "mine"},
		"after one that is down": {"notes.txt": "mine", stateFile: `{"id": "0a0b0c"}`, "logs/old.log": "", "kubeconfig": ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, files)
			if err := checkDir(dir); err != nil {
				t.Fatal(err)
			}
			if _, running, err := prepare(&Options{Dir: dir}); err != nil || running {
				t.Fatal(running, err)
			}
			for _, gone := range []string{"logs/old.log", "kubeconfig"} {
				if _, err := os.Stat(filepath.Join(dir, gone)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", gone, err)
				}
			}
			for _, there := range append([]string{"notes.txt", stateFile}, dirs...) {
				if _, err := os.Stat(filepath.Join(dir, there)); err != nil {
					t.Error(err)
				}
			}
			if err := checkDir(dir); err != nil {
				t.Errorf("what a cluster has made is another's: %v", err)
			}
		})
	}
}

package diskfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, content := range []string{"one", "another", ""} {
		for _, sync := range []bool{true, false} {
			if err := errors.Join(Replace(path, []byte(content), sync), SyncDir(dir)); err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(path); err != nil || string(data) != content {
				t.Errorf("got %q, %v; want %q", data, err, content)
			}
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// What cannot be replaced stays as it is, and nothing is left beside it.
	taken := filepath.Join(dir, "directory")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(taken, []byte("x"), true); err == nil {
		t.Error("a directory was replaced")
	}
	if err := Replace(filepath.Join(dir, "absent", "file"), nil, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("there are %v, %v", entries, err)
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := Read(path, 3); !errors.Is(err, fs.ErrNotExist) || IgnoreNotExist(err) != nil {
		t.Errorf("absent: %v", err)
	}
	for content, tooLarge := range map[string]bool{"": false, "ab": false, "abc": false, "abcd": true} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		data, err := Read(path, 3)
		if tooLarge {
			if err == nil || !strings.Contains(err.Error(), path+" is larger than 3 bytes") || IgnoreNotExist(err) == nil {
				t.Errorf("%q: %v", content, err)
			}
			continue
		}
		if err != nil || string(data) != content {
			t.Errorf("%q: got %q, %v", content, data, err)
		}
	}
}

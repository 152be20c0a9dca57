package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tarOf is an archive of the given entries; those with content are files of the mode 0640.
func tarOf(t testing.TB, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buffer bytes.Buffer
	tw := tar.NewWriter(&buffer)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			h.Mode, h.Size, content = 0o640, int64(len(h.Linkname)), h.Linkname
			h.Linkname = ""
		}
		if err := errors.Join(tw.WriteHeader(&h), func() error { _, err := io.WriteString(tw, content); return err }()); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return &buffer
}

// destinationOf is where something of the given name is copied to.
func destinationOf(t *testing.T, local, name string) *destination {
	t.Helper()
	d, err := findDestination(local, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d
}

// file is an entry with content.
func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content}
}

// tree are the files below a directory, with their contents.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		relative, _ := filepath.Rel(dir, path) // path is below dir
		files[relative] = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

func TestExtract(t *testing.T) {
	directory := tar.Header{Typeflag: tar.TypeDir, Name: "./site/", Mode: 0o500}
	for name, tc := range map[string]struct {
		local   string // below a directory with the file "old"
		entries []tar.Header
		want    map[string]string
		skipped int
		err     string
	}{
		"a directory": {local: "new", entries: []tar.Header{directory, file("./site/a", "A"), file("./site/b/c", "C")},
			want: map[string]string{"old": "", "new/a": "A", "new/b/c": "C"}},
		"to a new directory with a slash": {local: "new/", entries: []tar.Header{directory, file("./site/a", "A")},
			want: map[string]string{"old": "", "new/a": "A"}},
		"into a directory": {local: ".", entries: []tar.Header{directory, file("./site/a", "A")},
			want: map[string]string{"old": "", "site/a": "A"}},
		"below a new directory": {local: "new/deep", entries: []tar.Header{file("site", "S")}, want: map[string]string{"old": "", "new/deep": "S"}},
		"over a file":           {local: "old", entries: []tar.Header{file("./site", "new")}, want: map[string]string{"old": "new"}},
		"a hard link": {local: "new", entries: []tar.Header{file("site/a", "A"), {Typeflag: tar.TypeLink, Name: "site/b", Linkname: "site/a"}},
			want: map[string]string{"old": "", "new/a": "A", "new/b": "A"}},
		"links and devices": {local: "new", skipped: 2, want: map[string]string{"old": "", "new/a": "A"}, entries: []tar.Header{
			{Typeflag: tar.TypeSymlink, Name: "site/l", Linkname: "/etc"}, {Typeflag: tar.TypeFifo, Name: "site/f"}, file("site/a", "A")}},
		"out of the destination": {local: "new", entries: []tar.Header{file("site/../../x", "X")}, want: map[string]string{"old": ""}, err: `sent "site/../../x"`},
		"something else":         {local: "new", entries: []tar.Header{file("/etc/passwd", "X")}, want: map[string]string{"old": ""}, err: "not part of"},
		"a name that begins so":  {local: "new", entries: []tar.Header{file("site2", "X")}, want: map[string]string{"old": ""}, err: "not part of"},
		"a link to the outside": {local: "new", entries: []tar.Header{{Typeflag: tar.TypeLink, Name: "site/a", Linkname: "../old"}},
			want: map[string]string{"old": ""}, err: "not part of"},
		"a file in place of a directory": {local: ".", entries: []tar.Header{file("site", "X"), file("site/a", "A")},
			want: map[string]string{"old": "", "site": "X"}, err: "file exists"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "old"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			d := destinationOf(t, dir+"/"+tc.local, "site")
			skipped := 0
			d.skipped = func(string, string) { skipped++ }
			err := d.extract(tarOf(t, tc.entries...), "site")
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			got := tree(t, dir)
			for name, content := range tc.want {
				if have, ok := got[name]; !ok || have != content {
					t.Errorf("%s: %q, %v; want %q", name, have, ok, content)
				}
			}
			if len(got) != len(tc.want) || skipped != tc.skipped {
				t.Errorf("got %v and %d left out, want %v and %d", got, skipped, tc.want, tc.skipped)
			}
		})
	}
}

// A link in the destination that leads out of it is not followed by what a device sends.
func TestExtractThroughLink(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "site")); err != nil {
		t.Fatal(err)
	}
	d := destinationOf(t, dir, "site")
	if err := d.extract(tarOf(t, file("site/a", "A")), "site"); err == nil {
		t.Error("no error")
	}
	if files := tree(t, outside); len(files) > 0 {
		t.Errorf("written outside: %v", files)
	}
}

// An archive that ends too soon, or whose writer fails at the end, leaves the file as it was.
func TestExtractCutOff(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "a")
	if err := os.WriteFile(target, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := tarOf(t, file("a", strings.Repeat("x", 4096))).Bytes()
	d := destinationOf(t, target, "a")
	if err := d.extract(bytes.NewReader(whole[:2048]), "a"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want that the end is unexpected", err)
	}
	if got := tree(t, dir); len(got) != 1 || got["a"] != "old" {
		t.Errorf("left behind: %v", got)
	}
	failed := errors.New("tar has failed")
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write(whole)
		_ = writer.CloseWithError(failed)
	}()
	if err := d.extract(reader, "a"); !errors.Is(err, failed) {
		t.Errorf("error %v, want that of tar", err)
	}
}

// What archive writes, extract makes again.
func TestArchive(t *testing.T) {
	source, dir := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{"a": "A", "sub/b": "B"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755), os.WriteFile(filepath.Join(source, name), []byte(content), 0o750)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(source, "link")); err != nil {
		t.Fatal(err)
	}
	var buffer bytes.Buffer
	if err := archive(&buffer, source, "name", func(name, what string) { t.Errorf("left out: %s, %s", name, what) }); err != nil {
		t.Fatal(err)
	}
	d := destinationOf(t, filepath.Join(dir, "copy"), "name")
	var skipped []string
	d.skipped = func(name, _ string) { skipped = append(skipped, name) }
	if err := d.extract(&buffer, "name"); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir); len(got) != 2 || got["copy/a"] != "A" || got["copy/sub/b"] != "B" {
		t.Errorf("got %v", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "copy", "a")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, error %v", info, err)
	}
	if strings.Join(skipped, " ") != "name/link" {
		t.Errorf("left out: %q", skipped)
	}
}

// Symbolic links and devices that the user names stay, and what they lead to is written, as by kubectl cp.
func TestExtractThroughWhatIsNamed(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(path("target"), []byte("old"), 0o600), os.Symlink("target", path("link")),
		os.Symlink("nowhere", path("dangling")), unix.Mkfifo(path("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 1)
	go func() {
		content, err := os.ReadFile(path("pipe"))
		if err != nil {
			content = []byte(err.Error())
		}
		read <- string(content)
	}()
	for _, name := range []string{"link", "pipe"} {
		if err := destinationOf(t, path(name), "site").extract(tarOf(t, file("./site", "new")), "site"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := <-read; got != "new" {
		t.Errorf("through the pipe came %q", got)
	}
	if to, err := os.Readlink(path("link")); err != nil || to != "target" {
		t.Errorf("the link leads to %q, error %v", to, err)
	}
	if content, err := os.ReadFile(path("target")); err != nil || string(content) != "new" {
		t.Errorf("it leads to %q, error %v", content, err)
	}
	if info, err := os.Lstat(path("pipe")); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("the pipe has become %v, error %v", info, err)
	}
	for name, entry := range map[string]tar.Header{
		"a directory": {Typeflag: tar.TypeDir, Name: "site"},
		"a hard link": {Typeflag: tar.TypeLink, Name: "site", Linkname: "site/a"},
	} {
		if err := destinationOf(t, path("pipe"), "site").extract(tarOf(t, entry), "site"); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("%s to a pipe: error %v", name, err)
		}
	}
	if _, err := findDestination(path("dangling"), "site"); err == nil || !strings.Contains(err.Error(), "nowhere, which does not exist") {
		t.Errorf("error %v, want that the link leads nowhere", err)
	}
}

// A file of the longest name that there may be, and one beside it that is named as if it were temporary.
func TestExtractLongNames(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("n", 255)
	if err := os.WriteFile(filepath.Join(dir, "a.kubectl-edge-cp"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := destinationOf(t, dir, ".").extract(tarOf(t, file("./a", "A"), file("./"+long, "L")), "."); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dir); len(got) != 3 || got["a"] != "A" || got[long] != "L" || got["a.kubectl-edge-cp"] != "kept" {
		t.Errorf("got %v", got)
	}
}

// FuzzExtract has a device send what it likes for a directory.
func FuzzExtract(f *testing.F) {
	for _, headers := range [][]tar.Header{
		{{Typeflag: tar.TypeDir, Name: "site/", Mode: 0o700}, file("site/a", "A"), {Typeflag: tar.TypeLink, Name: "site/b", Linkname: "site/a"}, {Typeflag: tar.TypeSymlink, Name: "site/c", Linkname: ".."}, file("site/c/d", "D")},
		{file("site/../../old", "X")},
		{{Typeflag: tar.TypeLink, Name: "site/a", Linkname: "site/../../old"}, file("site/a", "A")},
	} {
		f.Add(tarOf(f, headers...).Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if inflates(data) {
			return
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "old"), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		d := destinationOf(t, filepath.Join(dir, "into", "new"), "site")
		d.skipped = func(string, string) {}
		_ = d.extract(bytes.NewReader(data), "site") // whatever comes of it, nothing else is touched
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if entry.Name() != "old" && entry.Name() != "into" {
				t.Errorf("%s is written outside", entry.Name())
			}
		}
		if old, err := os.ReadFile(filepath.Join(dir, "old")); err != nil || string(old) != "old" {
			t.Errorf("what is outside has become %q, %v", old, err)
		}
	})
}

// inflates says whether an archive has a file that is much larger than the archive, as a sparse one may be: it would fill
// the disk.
func inflates(data []byte) bool {
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		header, err := tr.Next()
		if err != nil {
			return false
		}
		if header.Size > 1<<20 {
			return true
		}
	}
}

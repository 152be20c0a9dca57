package volumes

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/rights"
)

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		kind v1.HostPathType
		err  string
	}{
		{filepath.Join(dir, "absent"), v1.HostPathUnset, ""},
		{filepath.Join(dir, "absent"), v1.HostPathDirectory, "is not a directory"},
		{filepath.Join(dir, "absent"), v1.HostPathFile, "is not a file"},
		{dir, v1.HostPathDirectory, ""},
		{dir, v1.HostPathFile, "is not a file"},
		{file, v1.HostPathFile, ""},
		{file, v1.HostPathFileOrCreate, ""},
		{file, v1.HostPathSocket, "is not a socket file"},
		{"/dev/null", v1.HostPathCharDev, ""},
		{"/dev/null", v1.HostPathBlockDev, "is not a block device"},
		{filepath.Join(dir, "new/dir"), v1.HostPathDirectoryOrCreate, ""},
		{filepath.Join(dir, "new/file"), v1.HostPathFileOrCreate, ""},
		{filepath.Join(dir, "no/dir/file"), v1.HostPathFileOrCreate, "does not exist"},
		{dir, "Nonsense", "invalid volume type"},
	} {
		err := newHostPath(&v1.HostPathVolumeSource{Path: tc.path, Type: &tc.kind}, nil).setup()
		if (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s as %q: got %v, want %q", tc.path, tc.kind, err, tc.err)
		}
	}
}

// realDir is a directory for a test, by a path without symbolic links.
func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// below tells of paths in a directory, as a device's policy does.
func below(dir string) func(string) bool {
	return func(path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
}

func TestHostPathsAllowed(t *testing.T) {
	dir, outside := realDir(t), realDir(t)
	for name, target := range map[string]string{"out": outside, "root": "/", "in": "dir", "nowhere": "absent-target"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path    string
		kind    v1.HostPathType
		err     string // of setup
		openErr string // at the start of a container
	}{
		{".", v1.HostPathUnset, "", ""},
		{"in", v1.HostPathUnset, "", ""},
		{"in", v1.HostPathDirectory, "", ""},
		{"absent/dir", v1.HostPathUnset, "", ""},
		{"in/new/dir", v1.HostPathDirectoryOrCreate, "", ""},
		{"in/file", v1.HostPathFileOrCreate, "", ""},
		{"out", v1.HostPathUnset, "which the device's own policy forbids", "policy"},
		{"out/new", v1.HostPathUnset, "leads to " + outside + "/new, which", "policy"},
		{"out/new", v1.HostPathDirectoryOrCreate, "policy.hostPaths", "policy"},
		{"out/file", v1.HostPathFileOrCreate, "policy.hostPaths", "policy"},
		{"root/dev/null", v1.HostPathCharDev, "policy.hostPaths", "policy"},
		{"../beside", v1.HostPathDirectoryOrCreate, "policy.hostPaths", "policy"},
		{"nowhere", v1.HostPathUnset, "", "not a directory"},
		{"nowhere", v1.HostPathDirectoryOrCreate, "not a directory", "not a directory"},
		{"nowhere", v1.HostPathFileOrCreate, "symbolic links", "symbolic links"},
	} {
		h := newHostPath(&v1.HostPathVolumeSource{Path: filepath.Join(dir, tc.path), Type: &tc.kind}, below(dir))
		if err := h.setup(); (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s as %q: got %v, want %q", tc.path, tc.kind, err, tc.err)
		}
		fd, err := h.open(true)
		if err == nil {
			unix.Close(fd)
		}
		if (err == nil) != (tc.openErr == "") || (err != nil && !strings.Contains(err.Error(), tc.openErr)) {
			t.Errorf("%s as %q at the start: got %v, want %q", tc.path, tc.kind, err, tc.openErr)
		}
	}
	if got := names(t, outside); len(got) > 0 {
		t.Errorf("made out of what is allowed: %v", got)
	}
}

// What a container gets of the host is what was found to be allowed, whatever becomes of the path.
func TestHostPathIsPinned(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := realDir(t)
	path := filepath.Join(dir, "x")
	pod := podWith(v1.Volume{Name: "h", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}}})
	v := newTest(t)
	mounted, err := v.Setup(pod, Source{AllowsHostPath: below(dir)})
	if err != nil {
		t.Fatal(err)
	}
	from, err := v.HostPath(pod, mounted["h"], "h", "c", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", path); err != nil {
		t.Fatal(err)
	}
	if got := names(t, from); !slices.Equal(got, []string{"f"}) {
		t.Errorf("the container gets %v", got)
	}
	for _, open := range map[string]func() error{
		"HostPath": func() error { _, err := v.HostPath(pod, mounted["h"], "h", "c", 0); return err },
		"SubPath":  func() error { _, err := v.SubPath(pod, mounted["h"], "h", "c", 1, "ssl"); return err },
		"ReadFile": func() error { _, err := ReadFile(mounted["h"], "passwd", 1<<20); return err },
	} {
		if err := open(); err == nil || !strings.Contains(err.Error(), "leads to /etc, which the device's own policy forbids") {
			t.Errorf("got %v", err)
		}
	}
	if err := v.Teardown("uid"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Join(dir, "moved")); !slices.Equal(got, []string{"f"}) {
		t.Errorf("left on the host: %v", got)
	}
}

// An agent that cannot mount cannot keep a runtime with other rights from following a link that a container makes.
func TestPathsWithoutMounts(t *testing.T) {
	dir := realDir(t)
	pod := podWith(
		v1.Volume{Name: "h", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: dir}}},
		v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		configMap("c"),
	)
	for name, tt := range map[string]struct {
		agentRights bool
		allowed     func(string) bool
		hostErr     bool
		subPathErr  bool
	}{
		"processes":                    {agentRights: true},
		"processes, some of the host":  {agentRights: true, allowed: below(dir)},
		"CRI, all of the host":         {subPathErr: true},
		"CRI, only a part of the host": {allowed: below(dir), hostErr: true, subPathErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			rights.Without(t, unix.CAP_SYS_ADMIN)
			v := New(realDir(t), tt.agentRights)
			src := content("c", &edgeapi.File{Path: "dir/f", Mode: 0o644})
			src.AllowsHostPath = tt.allowed
			mounted, err := v.Setup(pod, src)
			if err != nil {
				t.Fatal(err)
			}
			data, err := filepath.EvalSymlinks(filepath.Join(mounted["c"].Path, "dir"))
			if err != nil {
				t.Fatal(err)
			}
			check := func(what, got, want string, err error, wantErr bool) {
				t.Helper()
				if wantErr && (err == nil || !strings.Contains(err.Error(), "run arhat as root, with CAP_SYS_ADMIN")) || !wantErr && (err != nil || got != want) {
					t.Errorf("%s: got %q, %v; want %q, error %t", what, got, err, want, wantErr)
				}
			}
			path, err := v.HostPath(pod, mounted["h"], "h", "c", 0)
			check("hostPath", path, dir, err, tt.hostErr)
			path, err = v.SubPath(pod, mounted["h"], "h", "c", 1, "sub")
			check("subPath of it", path, filepath.Join(dir, "sub"), err, tt.subPathErr)
			path, err = v.SubPath(pod, mounted["e"], "e", "c", 2, "sub")
			check("subPath of an emptyDir", path, filepath.Join(mounted["e"].Path, "sub"), err, tt.subPathErr)
			path, err = v.SubPath(pod, mounted["c"], "c", "c", 3, "dir")
			check("subPath of a ConfigMap", path, data, err, false)
		})
	}
}

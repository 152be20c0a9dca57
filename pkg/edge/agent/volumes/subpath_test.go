package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestOpenBeneath(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	for _, dir := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"abs": outside, "up": "../x", "deep/up": "", "a/in": "../c", "a/out": "../../x", "loop": "loop", "etc": "/etc",
	} {
		if target != "" {
			if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, want := range map[string]string{
		"a/b": "a/b", "a/in": "c", "a/../c": "c", "new/sub": "new/sub", ".": ".",
		"abs": "", "abs/x": "", "up": "", "a/out": "", "loop": "", "etc/passwd": "", "a/../../x": "", "../x": "",
	} {
		fd, err := openBeneath(Mounted{Path: root}, path, true)
		if want == "" {
			if err == nil {
				unix.Close(fd)
				t.Errorf("%s: was opened, but it leads out of the volume", path)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		var got, expected unix.Stat_t
		if err := errors.Join(unix.Fstat(fd, &got), unix.Stat(filepath.Join(root, want), &expected)); err != nil || got.Ino != expected.Ino {
			t.Errorf("%s: not %s: %v", path, want, err)
		}
		unix.Close(fd)
	}
	if _, err := openBeneath(Mounted{Path: root}, "absent", false); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, want that it is not there", err)
	}
}

func TestSubPathIsMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	v := newTest(t)
	pod := podWith(v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	mounted, err := v.Setup(pod, Source{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again for the next start of the container
		path, err := v.SubPath(pod, mounted["e"], "e", "c", 0, "sub")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(mounted["e"].Path, "sub/f"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if read(t, path, "f") != "x" {
			t.Error("not the same directory")
		}
	}
	// A directory that is exchanged for a link later changes nothing.
	if err := os.Rename(filepath.Join(mounted["e"].Path, "sub"), filepath.Join(mounted["e"].Path, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(mounted["e"].Path, "sub")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.SubPath(pod, mounted["e"], "e", "c", 0, "sub"); err == nil {
		t.Error("a link out of the volume was followed")
	}
	if err := v.Teardown("uid"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(v.PodDir("uid")); !os.IsNotExist(err) {
		t.Error("still there after Teardown")
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Fatal("Teardown went through a mount")
	}
}

// A subPath that a volume with content does not have is an empty directory, and what the volume holds changes as before.
func TestSubPathOfContent(t *testing.T) {
	one := &edgeapi.File{Path: "d/f", Data: []byte("1"), Mode: 0o644}
	two := &edgeapi.File{Path: "d/f", Data: []byte("2"), Mode: 0o644}
	for _, test := range []struct {
		subPath string
		updates []*edgeapi.File // each is all that there is then
		want    []string        // in the volume in the end
	}{
		{subPath: "x", want: []string{"x"}},
		{subPath: "x/y", updates: []*edgeapi.File{one, one, two}, want: []string{"d", "x"}},
		{subPath: "d/x", updates: []*edgeapi.File{one, two}, want: []string{"d"}},
		{subPath: "..data_tmp/x", updates: []*edgeapi.File{one, two}, want: []string{"d"}},
		{subPath: "x", updates: []*edgeapi.File{one, {Path: "x", Data: []byte("2"), Mode: 0o644}}, want: []string{"x"}},
	} {
		t.Run(test.subPath, func(t *testing.T) {
			v, pod := newTest(t), podWith(configMap("c"))
			mounted, err := v.Setup(pod, content("c"))
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; ; i++ {
				path, err := v.SubPath(pod, mounted["c"], "c", "c0", 0, test.subPath)
				if err != nil {
					t.Fatalf("after %d updates: %v", i, err)
				}
				if info, err := os.Stat(path); err != nil || (info.IsDir() && len(names(t, path)) != 0) {
					t.Errorf("%s is no empty directory: %v", path, err)
				}
				if i == len(test.updates) {
					break
				}
				last := test.updates[i]
				if _, err := v.Setup(pod, content("c", last)); err != nil {
					t.Fatalf("update %d: %v", i, err)
				}
				if got := read(t, mounted["c"].Path, last.Path); got != string(last.Data) {
					t.Errorf("after update %d: %q", i, got)
				}
			}
			if got := names(t, mounted["c"].Path); !slices.Equal(got, test.want) {
				t.Errorf("the volume has %v, want %v", got, test.want)
			}
		})
	}
}

// What the host has mounted below a subPath stays mounted there, when a container is started again and at the end.
func TestMountsBelowSubPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	host := t.TempDir()
	inner := filepath.Join(host, "sub", "inner")
	mountShared(t, host)
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	mountShared(t, inner)
	if err := os.WriteFile(filepath.Join(inner, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := newTest(t)
	pod := podWith(v1.Volume{Name: "h", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: host}}})
	mounted, err := v.Setup(pod, Source{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		path, err := v.SubPath(pod, mounted["h"], "h", "c", 0, "sub")
		if err != nil {
			t.Fatal(err)
		}
		if read(t, path, "inner/f") != "x" {
			t.Error("what is mounted below is not seen")
		}
	}
	if err := v.Teardown("uid"); err != nil {
		t.Fatal(err)
	}
	if read(t, inner, "f") != "x" {
		t.Error("what the host had mounted was unmounted")
	}
}

// mountShared mounts a tmpfs whose mounts are seen wherever it is mounted, as systemd makes it the default.
func mountShared(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

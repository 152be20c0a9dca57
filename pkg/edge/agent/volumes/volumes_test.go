package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func newTest(t *testing.T) *Volumes {
	t.Helper()
	v := New(t.TempDir())
	t.Cleanup(func() {
		uids, _ := v.Pods()
		for _, uid := range uids {
			if err := v.Teardown(uid); err != nil {
				t.Error(err)
			}
		}
	})
	return v
}

func podWith(volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid", Name: "p", Namespace: "ns"}, Spec: v1.PodSpec{
		Volumes: volumes, Containers: []v1.Container{{Name: "c"}},
	}}
}

func configMap(name string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}}
}

func content(name string, files ...*edgeapi.File) Source {
	return Source{Data: map[string]*edgeapi.VolumeData{name: {Name: name, Files: files}}}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") {
			out = append(out, e.Name())
		}
	}
	return out
}

func TestAtomicUpdate(t *testing.T) {
	v := newTest(t)
	pod := podWith(configMap("c"))
	setup := func(files ...*edgeapi.File) string {
		t.Helper()
		mounted, err := v.Setup(pod, content("c", files...))
		if err != nil {
			t.Fatal(err)
		}
		if !mounted["c"].ReadOnly {
			t.Error("a configMap volume must be read-only")
		}
		return mounted["c"].Path
	}
	dir := setup(&edgeapi.File{Path: "a", Data: []byte("1"), Mode: 0o640}, &edgeapi.File{Path: "d/e/f", Data: []byte("2"), Mode: 0o777})
	if read(t, dir, "a") != "1" || read(t, dir, "d/e/f") != "2" {
		t.Error("wrong content")
	}
	for path, want := range map[string]os.FileMode{"a": 0o640, "d/e/f": 0o777} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got mode %v, %v; want %v whatever the umask", path, info.Mode(), err, want)
		}
	}
	first, _ := os.Readlink(filepath.Join(dir, dataLink))
	setup(&edgeapi.File{Path: "d/e/f", Data: []byte("2"), Mode: 0o777}, &edgeapi.File{Path: "a", Data: []byte("1"), Mode: 0o640})
	if same, _ := os.Readlink(filepath.Join(dir, dataLink)); same != first {
		t.Error("the same content was written again")
	}
	if link, err := os.Readlink(filepath.Join(dir, "a")); err != nil || link != "..data/a" {
		t.Errorf("got link %q, %v: it must lead through ..data", link, err)
	}
	setup(&edgeapi.File{Path: "a", Data: []byte("one"), Mode: 0o640}, &edgeapi.File{Path: "g", Data: []byte("3"), Mode: 0o600})
	if got := names(t, dir); !slices.Equal(got, []string{"a", "g"}) || read(t, dir, "a") != "one" {
		t.Errorf("after the update: %v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, first)); !os.IsNotExist(err) {
		t.Error("the old content is still there")
	}
	setup()
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("after it was emptied: %v", got)
	}
}

// TestAtomicUpdateCutOff has an update that ended after its content was exchanged, before the rest was done.
func TestAtomicUpdateCutOff(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"a link is not made": func(dir string) error { return os.Remove(filepath.Join(dir, "a")) },
		"a link is not removed": func(dir string) error {
			return os.Symlink(filepath.Join(dataLink, "gone"), filepath.Join(dir, "gone"))
		},
		"the old content is not removed": func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, "..data-old", "d"), 0o755)
		},
	} {
		t.Run(name, func(t *testing.T) {
			v, pod := newTest(t), podWith(configMap("c"))
			src := content("c", &edgeapi.File{Path: "a", Data: []byte("1"), Mode: 0o640}, &edgeapi.File{Path: "d/f", Data: []byte("2"), Mode: 0o640})
			mounted, err := v.Setup(pod, src)
			if err != nil {
				t.Fatal(err)
			}
			dir := mounted["c"].Path
			current, err := os.Readlink(filepath.Join(dir, dataLink))
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Setup(pod, src); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Name())
			}
			// The same directory: what was complete is not written again.
			if want := []string{dataLink, current, "a", "d"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := read(t, dir, "a"); got != "1" {
				t.Errorf("read %q through the link", got)
			}
		})
	}
}

func TestContentIsConfined(t *testing.T) {
	v := newTest(t)
	for _, path := range []string{"", "/abs", "../up", "a/../../up", "..data", "..x/y", "."} {
		_, err := v.Setup(podWith(configMap("c")), content("c", &edgeapi.File{Path: path}))
		var failed *SetupError
		if !errors.As(err, &failed) || failed.Volume != "c" {
			t.Errorf("path %q: got %v, want it refused", path, err)
		}
	}
}

func TestDownwardAndProjected(t *testing.T) {
	v := newTest(t)
	item := v1.DownwardAPIVolumeFile{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}, Mode: ptr.To[int32](0o400)}
	pod := podWith(
		v1.Volume{Name: "d", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{item}}}},
		v1.Volume{Name: "p", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultMode: ptr.To[int32](0o444), Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "ns"}}}},
		}}}},
	)
	src := content("p", &edgeapi.File{Path: "token", Data: []byte("t"), Mode: 0o444})
	value := "one"
	src.Downward = func(f *v1.DownwardAPIVolumeFile) ([]byte, error) { return []byte(f.Path + value), nil }
	mounted, err := v.Setup(pod, src)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, mounted["d"].Path, "labels"); got != "labelsone" {
		t.Errorf("got %q", got)
	}
	if info, _ := os.Stat(filepath.Join(mounted["d"].Path, "labels")); info.Mode().Perm() != 0o400 {
		t.Errorf("got mode %v", info.Mode())
	}
	if read(t, mounted["p"].Path, "token") != "t" || read(t, mounted["p"].Path, "ns") != "nsone" {
		t.Error("wrong content of the projected volume")
	}
	value = "two"
	if _, err := v.Setup(pod, src); err != nil {
		t.Fatal(err)
	}
	if read(t, mounted["d"].Path, "labels") != "labelstwo" || read(t, mounted["p"].Path, "ns") != "nstwo" {
		t.Error("the volumes did not follow")
	}
}

func TestUnsupportedVolume(t *testing.T) {
	for want, source := range map[string]v1.VolumeSource{
		"volumes of type nfs cannot be used on an edge device":                   {NFS: &v1.NFSVolumeSource{}},
		"volumes of type persistentVolumeClaim cannot be used on an edge device": {PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}},
		"volumes of type unknown to this agent cannot be used":                   {},
	} {
		_, err := newTest(t).Setup(podWith(v1.Volume{Name: "n", VolumeSource: source}), Source{})
		if err == nil || !strings.HasPrefix(err.Error(), `MountVolume.SetUp failed for volume "n" : `+want) {
			t.Errorf("got %v", err)
		}
	}
}

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

func TestTeardownOfNonsense(t *testing.T) {
	v := newTest(t)
	for _, uid := range []string{"", ".", "..", "../x", "a/b"} {
		if err := v.Teardown(uid); err == nil {
			t.Errorf("UID %q was accepted", uid)
		}
	}
}

package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func newTest(t *testing.T) *Volumes {
	t.Helper()
	v := New(t.TempDir(), !mayMount()) // so that the tests run also without root
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

func TestTeardownOfNonsense(t *testing.T) {
	v := newTest(t)
	for _, uid := range []string{"", ".", "..", "../x", "a/b"} {
		if err := v.Teardown(uid); err == nil {
			t.Errorf("UID %q was accepted", uid)
		}
	}
}

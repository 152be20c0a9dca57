package volumes

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// TestVolumesBelongToTheGroup looks at what fsGroup makes of volumes with content, their root directories included, and
// that it is not written again each time.
func TestVolumesBelongToTheGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing owners needs root")
	}
	item := v1.DownwardAPIVolumeFile{Path: "dir/file"}
	for name, source := range map[string]v1.VolumeSource{
		"configMap":   {ConfigMap: &v1.ConfigMapVolumeSource{}},
		"secret":      {Secret: &v1.SecretVolumeSource{}},
		"projected":   {Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{Secret: &v1.SecretProjection{}}}}},
		"downwardAPI": {DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{item}, DefaultMode: ptr.To[int32](0o400)}},
	} {
		t.Run(name, func(t *testing.T) {
			v := newTest(t)
			pod := podWith(v1.Volume{Name: "v", VolumeSource: source})
			pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](4321)}
			src := Source{Downward: func(*v1.DownwardAPIVolumeFile) ([]byte, error) { return []byte("x"), nil }}
			if source.DownwardAPI == nil {
				src = content("v", &edgeapi.File{Path: "dir/file", Data: []byte("x"), Mode: 0o400})
			}
			mounted, err := v.Setup(pod, src)
			if err != nil {
				t.Fatal(err)
			}
			look := func(path string) (stat unix.Stat_t) {
				t.Helper()
				if err := unix.Lstat(filepath.Join(mounted["v"].Path, path), &stat); err != nil {
					t.Fatal(err)
				}
				return stat
			}
			for path, mode := range map[string]uint32{
				".": 0o2755, "..data/dir": 0o2755, "..data/dir/file": 0o440, "..data": 0o777, "dir": 0o777,
			} {
				if stat := look(path); stat.Gid != 4321 || stat.Mode&0o7777 != mode {
					t.Errorf("%s: got group %d and mode %o, want 4321 and %o", path, stat.Gid, stat.Mode&0o7777, mode)
				}
			}
			before := look(".").Ctim
			if _, err := v.Setup(pod, src); err != nil || look(".").Ctim != before {
				t.Errorf("the root directory was written again, %v", err)
			}
		})
	}
}

func TestTokenBelongsToTheOnlyUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing owners needs root")
	}
	v := newTest(t)
	pod := podWith(v1.Volume{Name: "p", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}}}}}})
	pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr.To[int64](1000)}
	mounted, err := v.Setup(pod, content("p", &edgeapi.File{Path: "token", Data: []byte("t"), Mode: 0o644}))
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(filepath.Join(mounted["p"].Path, "token"), &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Uid != 1000 || stat.Mode&0o777 != 0o600 {
		t.Errorf("got owner %d and mode %o, want 1000 and 600", stat.Uid, stat.Mode&0o777)
	}
}

// A pod's users read its volumes, however strict the umask is with which the agent was started.
func TestUmask(t *testing.T) {
	umask := unix.Umask(0o077)
	t.Cleanup(func() { unix.Umask(umask) })
	v := newTest(t)
	mounted, err := v.Setup(podWith(configMap("c")), content("c", &edgeapi.File{Path: "a/b/f", Data: []byte("x"), Mode: 0o644}))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{".": 0o755, "..data": 0o755, "a": 0o755, "a/b": 0o755, "a/b/f": 0o644} {
		info, err := os.Stat(filepath.Join(mounted["c"].Path, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: got mode %v, want %v", path, got, want)
		}
	}
}

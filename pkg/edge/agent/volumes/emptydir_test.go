package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

func TestEmptyDirKeepsItsContent(t *testing.T) {
	v := newTest(t)
	pod := podWith(v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	if os.Geteuid() == 0 {
		pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](4321)}
	}
	mounted, err := v.Setup(pod, Source{})
	if err != nil {
		t.Fatal(err)
	}
	dir := mounted["e"].Path
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("got mode %v, %v", info.Mode(), err)
	}
	if os.Geteuid() == 0 {
		var stat unix.Stat_t
		if err := unix.Stat(dir, &stat); err != nil || stat.Gid != 4321 || info.Mode()&os.ModeSetgid == 0 {
			t.Errorf("got group %d, mode %v, %v", stat.Gid, info.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Setup(pod, Source{}); err != nil || read(t, dir, "f") != "x" {
		t.Errorf("content was lost: %v", err)
	}
	if err := v.Teardown("uid"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(v.PodDir("uid")); !os.IsNotExist(err) {
		t.Error("still there after Teardown")
	}
}

// TestEmptyDirCutOff has a volume whose making ended half way: it must not be taken for a finished one, which stays as
// it is.
func TestEmptyDirCutOff(t *testing.T) {
	dir := t.TempDir()
	v := New(dir, false)
	pod := podWith(v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}})
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](4321)}
	for range 2 {
		if err := asNobody(t, dir, func() error { _, err := v.Setup(pod, Source{}); return err }); !errors.Is(err, unix.EPERM) {
			t.Errorf("got %v for a group that cannot be set", err)
		}
		if _, err := os.Lstat(v.EmptyDir(pod, "e")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("there is a volume without its group: %v", err)
		}
	}
	pod.Spec.SecurityContext = nil
	mounted, err := v.Setup(pod, Source{})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(mounted["e"].Path); err != nil || info.Mode() != os.ModeDir|0o777 {
		t.Errorf("afterwards got mode %v, %v", info.Mode(), err)
	}
	if got := names(t, filepath.Dir(mounted["e"].Path)); len(got) != 1 {
		t.Errorf("there is %q", got)
	}
}

// asNobody calls f without root's rights to files.
func asNobody(t *testing.T, dir string, f func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return f()
	}
	for d, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o755, dir: 0o777} {
		if err := os.Chmod(d, mode); err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread() // it is the thread that has the rights
	defer runtime.UnlockOSThread()
	const nobody = 65534
	if _, err := unix.SetfsuidRetUid(nobody); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := unix.SetfsuidRetUid(0); err != nil {
			t.Fatal(err)
		}
	}()
	return f()
}

func TestTmpfsSize(t *testing.T) {
	mi := func(n int64) *resource.Quantity { return resource.NewQuantity(n<<20, resource.BinarySI) }
	limited := func(limits ...int64) *v1.Pod {
		pod := &v1.Pod{}
		for _, l := range limits {
			c := v1.Container{}
			if l > 0 {
				c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: *mi(l)}
			}
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		}
		return pod
	}
	with := func(pod *v1.Pod, change func(*v1.PodSpec)) *v1.Pod {
		change(&pod.Spec)
		return pod
	}
	whole := func(n int64) func(*v1.PodSpec) {
		return func(s *v1.PodSpec) {
			s.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: *mi(n)}}
		}
	}
	first := func(n int64, policy *v1.ContainerRestartPolicy) func(*v1.PodSpec) {
		return func(s *v1.PodSpec) {
			s.InitContainers = limited(n).Spec.Containers
			s.InitContainers[0].RestartPolicy = policy
		}
	}
	sidecar := ptr.To(v1.ContainerRestartPolicyAlways)
	for _, tc := range []struct {
		name   string
		pod    *v1.Pod
		limit  *resource.Quantity
		device int64
		want   int64
	}{
		{"nothing known", limited(0), nil, 0, 0},
		{"device", limited(0), nil, 100 << 20, 100 << 20},
		{"volume", limited(0), mi(5), 100 << 20, 5 << 20},
		{"pod", limited(3, 4), mi(50), 100 << 20, 7 << 20},
		{"one container without limit", limited(3, 0), mi(50), 100 << 20, 50 << 20},
		{"pod as a whole", with(limited(0), whole(9)), nil, 100 << 20, 9 << 20},
		{"pod as a whole, with more than its containers", with(limited(3), whole(9)), nil, 100 << 20, 9 << 20},
		{"sidecar", with(limited(3), first(2, sidecar)), nil, 100 << 20, 5 << 20},
		{"sidecar without limit", with(limited(3), first(0, sidecar)), nil, 100 << 20, 100 << 20},
		{"init container", with(limited(3), first(8, nil)), nil, 100 << 20, 8 << 20},
		{"init container without limit", with(limited(3), first(0, nil)), nil, 100 << 20, 100 << 20},
	} {
		if got := tmpfsSize(tc.pod, &v1.EmptyDirVolumeSource{SizeLimit: tc.limit}, tc.device); got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestEmptyDirMode(t *testing.T) {
	v := newTest(t)
	for mode, want := range map[int32]os.FileMode{0o755: 0o755, 0o1777: 0o777 | os.ModeSticky, 0o700: 0o700} {
		pod := podWith(v1.Volume{Name: fmt.Sprintf("e%o", mode), VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Mode: &mode}}})
		mounted, err := v.Setup(pod, Source{})
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(mounted[pod.Spec.Volumes[0].Name].Path)
		if err != nil || info.Mode() != want|os.ModeDir {
			t.Errorf("%o: got %v, %v", mode, info.Mode(), err)
		}
	}
}

// TestTmpfsMode expects what the kubelet leaves of the kernel's default, also of a subPath's directory.
func TestTmpfsMode(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	v := newTest(t)
	plain := podWith(v1.Volume{Name: "plain", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}})
	group := podWith(v1.Volume{Name: "group", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}})
	group.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](123)}
	for _, tt := range []struct {
		pod  *v1.Pod
		want os.FileMode
		gid  uint32
	}{
		{plain, os.ModeDir | os.ModeSticky | 0o777, 0},
		{group, os.ModeDir | os.ModeSticky | os.ModeSetgid | 0o777, 123},
	} {
		name := tt.pod.Spec.Volumes[0].Name
		mounted, err := v.Setup(tt.pod, Source{})
		if err != nil {
			t.Fatal(err)
		}
		sub, err := v.SubPath(tt.pod, mounted[name], name, "c", 0, "sub")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{mounted[name].Path, sub} {
			var stat unix.Stat_t
			info, err := os.Stat(path)
			if err = errors.Join(err, unix.Stat(path, &stat)); err != nil {
				t.Fatal(err)
			}
			if info.Mode() != tt.want || stat.Gid != tt.gid {
				t.Errorf("%s: got %v of group %d, want %v of %d", path, info.Mode(), stat.Gid, tt.want, tt.gid)
			}
		}
	}
}

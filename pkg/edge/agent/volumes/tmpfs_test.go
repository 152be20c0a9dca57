package volumes

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/test/framework/rights"
)

// What lies on a tmpfs does not reach the disk by way of swap.
func TestTmpfsIsNotSwappedOut(t *testing.T) {
	if !mayMount() {
		t.Skip("mounting needs root")
	}
	probe := realDir(t)
	switch err := unix.Mount("tmpfs", probe, "tmpfs", 0, "noswap"); {
	case errors.Is(err, unix.EINVAL):
		t.Skip("the kernel does not have noswap")
	case err != nil:
		t.Fatal(err)
	}
	if err := unix.Unmount(probe, 0); err != nil {
		t.Fatal(err)
	}
	v := newTest(t)
	mounted, err := v.Setup(podWith(
		v1.Volume{Name: "secret", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{}}},
		v1.Volume{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{}}},
		v1.Volume{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
	), content("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range mounted {
		path, err := filepath.EvalSymlinks(m.Path)
		if err != nil {
			t.Fatal(err)
		}
		infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
		if err != nil || len(infos) != 1 {
			t.Fatalf("%s: %d mounts, %v", name, len(infos), err)
		}
		if options := infos[0].VFSOptions; !slices.Contains(strings.Split(options, ","), "noswap") {
			t.Errorf("%s has the options %s", name, options)
		}
	}
}

// A user namespace cannot have a tmpfs that is not swapped out, as older kernels cannot: it gets another.
func TestTmpfsInUserNamespace(t *testing.T) {
	const inside = "ARHAT_TEST_TMPFS_AT"
	if at := os.Getenv(inside); at != "" {
		if err := mountTmpfs(at, unix.MS_NOSUID|unix.MS_NODEV, "mode=0750"); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(at); err != nil || info.Mode().Perm() != 0o750 {
			t.Errorf("it has mode %v, %v", info.Mode(), err)
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inside+"="+realDir(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("the system denies user namespaces: %v", err)
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// Without the right to mount, which root need not have, secrets lie in the state directory, and stay there.
func TestSecretsWithoutMounts(t *testing.T) {
	rights.Without(t, unix.CAP_SYS_ADMIN)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mountPrivateTmpfs(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(token); err != nil {
		t.Error(err)
	}
}

package containerd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestStartAndStop(t *testing.T) {
	if err := Check(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "ctrd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image, err := Busybox("test.local/box:1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), Options{Dir: dir}, image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	ctr := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "ctr", append([]string{"-a", s.socket(), "-n", "k8s.io"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	ctr("run", "-d", "--runc-root", filepath.Join(dir, "runc"), "test.local/box:1", "one", "/bin/sleep", "1000")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := ctr("task", "list"); !strings.Contains(out, "RUNNING") {
		t.Errorf("the container did not survive a kill of containerd: %s", out)
	}
	if err := Stop(dir); err != nil {
		t.Fatal(err)
	}
	if shims, _ := shimsOf(s.socket()); len(shims) != 0 {
		t.Errorf("shims left behind: %v", shims)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Error("mounts left behind")
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "state")); len(left) != 0 {
		t.Errorf("state left behind: %v", left)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/k8s.io/one"); len(left) != 0 {
		t.Errorf("cgroups left behind: %v", left)
	}
}

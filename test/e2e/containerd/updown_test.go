package containerd_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/containerd"
	"arhat.dev/aranya/test/framework/suite"
)

// Even after everything that looks after the processes was killed, nothing stays of a cluster that is
// taken down while pods run.
func TestDownAfterKill(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	dir, err := os.MkdirTemp("", "aranya-down-") // short, for the sake of sockets
	if err != nil {
		t.Fatal(err)
	}
	image, err := containerd.Busybox(suite.BusyboxImage)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := local.Down(context.Background(), dir, true, io.Discard); err != nil {
			t.Error(err)
		}
	})
	c, err := local.Up(t.Context(), local.Options{Dir: dir, Bin: os.Getenv("ARANYA_BIN"), Source: os.Getenv("ARANYA_SOURCE"),
		Devices: 1, Runtime: local.RuntimeContainerd, Images: []containerd.Image{image}, Out: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	other, err := suite.New(c)
	if err != nil {
		t.Fatal(err)
	}
	pod, err := other.Kube.CoreV1().Pods(suite.Namespace).Create(t.Context(), suite.Busybox(device, "while :; do sleep 1; done"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other.WaitPodReady(t, pod)
	containers, err := filepath.Glob(filepath.Join(dir, "devices", device, "containerd", "state", "io.containerd.runtime.v2.task", "k8s.io", "*"))
	if err != nil || len(containers) != 2 {
		t.Fatalf("containers %v, %v", containers, err)
	}
	left := cgroupsOf(t, containers)
	if len(left) == 0 {
		t.Error("the containers have no cgroups")
	}
	state := c.State()
	for _, p := range state.Supervisors {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := local.Down(t.Context(), dir, true, io.Discard); err != nil {
		t.Fatal(err)
	}
	if left := suite.Traces(t, state.ID, dir); len(left) != 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	for _, dir := range left {
		// Neither the container's nor the pod's.
		if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
			t.Errorf("%s is left behind: %v", filepath.Dir(dir), err)
		}
	}
	e.Kubectl(t, "get", "nodes", device)
}

// cgroupsOf finds the cgroups that are named after containers, wherever they are.
func cgroupsOf(t *testing.T, containers []string) (dirs []string) {
	t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && slices.ContainsFunc(containers, func(c string) bool { return filepath.Base(c) == entry.Name() }) {
			dirs = append(dirs, path)
		}
		return nil // others may go meanwhile
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

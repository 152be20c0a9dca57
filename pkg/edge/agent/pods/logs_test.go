package pods

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

func TestLogRotation(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("chatty", box("main"))
		a.run(pod)
		path, id, err := a.manager.ContainerLog(string(pod.UID), "main", false)
		if err != nil {
			t.Fatal(err)
		}
		if id != a.runtime.running()["main"] {
			t.Errorf("got the log of container %s", id)
		}
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text+strings.Repeat("x", DefaultLogMaxSize)), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		asides := func() []string { files, _ := filepath.Glob(path + ".*"); return files }
		rotate := func() {
			time.Sleep(logPeriod)
			synctest.Wait()
		}
		if err := os.WriteFile(path, []byte("small"), 0o640); err != nil {
			t.Fatal(err)
		}
		rotate()
		if len(asides()) != 0 {
			t.Error("a small log was rotated")
		}
		write("kept")
		a.runtime.set(func() { a.runtime.reopenErr = errors.New("no") })
		rotate()
		if data, _ := os.ReadFile(path); len(asides()) != 0 || !strings.HasPrefix(string(data), "kept") {
			t.Error("the log was put aside though the runtime did not begin a new one")
		}
		a.runtime.set(func() { a.runtime.reopenErr = nil })
		for range DefaultLogMaxFiles + 3 {
			write("again")
			rotate()
		}
		files := asides()
		if len(files) != DefaultLogMaxFiles-1 {
			t.Fatalf("got %v, want %d files besides the one being written", files, DefaultLogMaxFiles-1)
		}
		for i, file := range files {
			if last := i == len(files)-1; strings.HasSuffix(file, gzipSuffix) == last {
				t.Errorf("%s: all but the newest must be compressed", file)
			}
		}
		f, err := os.Open(files[0])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(z); err != nil || !strings.HasPrefix(string(data), "again") {
			t.Errorf("compressed log: %v", err)
		}
		a.delete(pod, 0)
		if len(asides()) != 0 {
			t.Error("logs are left behind")
		}
	})
}

// TestLogOfAContainerThatStarts asks for a log that is there before the runtime has been looked at again: its container
// is not one that the runtime has lost.
func TestLogOfAContainerThatStarts(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		block := make(chan struct{})
		a.runtime.set(func() { a.runtime.startBlock = block })
		c := box("main")
		c.Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 60}}}
		pod := newPod("p", c)
		a.run(pod)
		path := filepath.Join(podutil.LogDir(filepath.Join(a.dir, "logs"), pod.Namespace, pod.Name, string(pod.UID)), "main", "0.log")
		if err := os.WriteFile(path, nil, 0o640); err != nil { // as the runtime does while it starts one
			t.Fatal(err)
		}
		_, id, err := a.manager.ContainerLog(string(pod.UID), "main", false)
		if err == nil || err.Error() != `container "main" in pod "p" is waiting to start: ContainerCreating` {
			t.Errorf("being started: got id %q, %v", id, err)
		}
		close(block)
		a.settle()
		got, id, err := a.manager.ContainerLog(string(pod.UID), "main", false)
		if running := a.runtime.running()["main"]; err != nil || got != path || id != running || running == "" {
			t.Errorf("in its postStart hook: got %s of container %q, %v; want %s of %q", got, id, err, path, running)
		}
		if _, id, err = a.manager.ContainerLog(string(pod.UID), "main", true); err == nil {
			t.Errorf("got container %q for the one before the first", id)
		}
	})
}

// TestLogThatIsNotThere asks for logs, and sessions, of containers that do not run.
func TestLogThatIsNotThere(t *testing.T) {
	for name, tt := range map[string]struct {
		status         v1.PodStatus
		log, attaching string
	}{
		"new": {v1.PodStatus{}, "waiting to start: ContainerCreating", "not running: ContainerCreating"},
		"waiting": {v1.PodStatus{Phase: v1.PodPending, ContainerStatuses: []v1.ContainerStatus{{
			Name: "main", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CreateContainerError", Message: "bad mount"}},
		}}}, "waiting to start: CreateContainerError", "not running: CreateContainerError: bad mount"},
		"image is not there": {v1.PodStatus{Phase: v1.PodPending, ContainerStatuses: []v1.ContainerStatus{{
			Name: "main", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "Back-off pulling image"}},
		}}}, "waiting to start: trying and failing to pull image", "not running: ImagePullBackOff: Back-off pulling image"},
		"rejected": {v1.PodStatus{Phase: v1.PodFailed, Reason: "SysctlForbidden"}, "not available", "not running: the pod has ended"},
		"evicted": {v1.PodStatus{Phase: v1.PodFailed, Reason: podutil.ReasonEvicted, ContainerStatuses: []v1.ContainerStatus{{
			Name: "main", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Error", ExitCode: 137}},
		}}}, "terminated", "not running: Error with exit code 137"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Manager{cfg: Config{LogDir: t.TempDir()}, workers: map[string]*worker{}}
			pod := newPod("p", box("main"))
			m.workers[string(pod.UID)] = &worker{m: m, desired: &desired{pod: pod}, last: &tt.status}
			const prefix = `container "main" in pod "p" is `
			if _, _, err := m.ContainerLog(string(pod.UID), "main", false); err == nil || err.Error() != prefix+tt.log {
				t.Errorf("log: got %v, want %s", err, prefix+tt.log)
			}
			if _, err := m.ContainerID(string(pod.UID), "main"); err == nil || err.Error() != prefix+tt.attaching {
				t.Errorf("session: got %v, want %s", err, prefix+tt.attaching)
			}
		})
	}
}

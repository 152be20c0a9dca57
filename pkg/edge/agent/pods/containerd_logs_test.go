package pods

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// TestContainerdLostLogs has somebody remove containers behind the agent's back: their logs are still to be
// had, and do not pile up.
func TestContainerdLostLogs(t *testing.T) {
	d := newDevice(t)
	pod := newPod("logs", script("main", "echo this is instance $(hostname)-$RANDOM; "+forever))
	d.run(pod)
	d.waitReady(pod)
	log := func(previous bool) string {
		t.Helper()
		path, _, err := d.manager.ContainerLog(string(pod.UID), "main", previous)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	for range 3 {
		d.wait("something to be logged", func() bool { return strings.Contains(log(false), "this is instance") })
		before, restarts := log(false), d.status(pod).ContainerStatuses[0].RestartCount
		id, err := d.manager.ContainerID(string(pod.UID), "main")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.runtime.StopContainer(t.Context(), id, 0); err != nil {
			t.Fatal(err)
		}
		if err := d.runtime.RemoveContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		d.wait("the container to run again", func() bool {
			cs := d.status(pod).ContainerStatuses[0]
			return cs.State.Running != nil && cs.RestartCount > restarts
		})
		if got := log(true); got != before {
			t.Errorf("the log before is %q, want %q", got, before)
		}
	}
	d.wait("older logs to be removed", func() bool {
		files, err := filepath.Glob(filepath.Join(podutil.LogDir(d.manager.cfg.LogDir, pod.Namespace, pod.Name, string(pod.UID)), "main", "*.log"))
		return err == nil && len(files) == keptInstances
	})
	d.remove(pod, 0)
}

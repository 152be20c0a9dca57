package pods

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
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

// rotatingClock leaves it to the test when logs are rotated.
type rotatingClock struct{ shiftedClock }

func (c *rotatingClock) NewTicker(d time.Duration) clock.Ticker {
	if d == logPeriod {
		d = 24 * time.Hour
	}
	return c.shiftedClock.NewTicker(d)
}

// TestContainerdLogRotation puts the log of a container aside more often than logs are kept: nothing of it is lost
// before its time, and all but the newest of what is kept is compressed.
func TestContainerdLogRotation(t *testing.T) {
	d := newDevice(t)
	d.stop()
	c := &rotatingClock{}
	d.clock, d.logMaxSize = c, 1
	d.start()
	pod := newPod("talks", script("main", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"))
	d.run(pod)
	d.waitReady(pod)
	files := func() []string {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(podutil.LogDir(d.manager.cfg.LogDir, pod.Namespace, pod.Name, string(pod.UID)), "main", "0.log*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for range 7 {
		c.shift.Add(int64(time.Minute)) // they are named after the time
		var running []*state.Container
		d.wait("something to be logged", func() bool {
			running = d.manager.runningContainers()
			if len(running) != 1 {
				return false
			}
			info, err := os.Stat(running[0].LogPath)
			return err == nil && info.Size() > 0
		})
		if err := d.manager.rotateLog(t.Context(), running[0]); err != nil {
			t.Fatal(err)
		}
	}
	d.wait("the log to go on", func() bool {
		info, err := os.Stat(files()[0])
		return err == nil && info.Size() > 0
	})
	got := files()
	if len(got) != 5 { // the kubelet's default
		t.Fatalf("there are %v", got)
	}
	next := 0
	for i, file := range append(got[1:], got[0]) { // by time: the file of the moment is the last
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if compressed := i < 3; compressed != strings.HasSuffix(file, ".gz") {
			t.Errorf("%s, the %dth of %v", file, i, got)
		} else if compressed {
			z, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if data, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		for line := range strings.Lines(string(data)) {
			n := 0
			if _, err := fmt.Sscanf(line[strings.Index(line, " F ")+3:], "line %d", &n); err != nil || (next > 0 && n != next) {
				t.Fatalf("%s: %q, %v; want line %d", file, line, err, next)
			}
			next = n + 1
		}
	}
	d.remove(pod, 0)
}

package pods

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/eviction"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// TestContainerdFullDisk lets a pod fill the file system that the agent keeps everything in.
func TestContainerdFullDisk(t *testing.T) {
	d := newDevice(t)
	d.stop()
	state := filepath.Join(d.dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
	d.start()

	steady := newPod("steady", script("main", forever))
	d.run(steady)
	d.waitReady(steady)
	container := d.status(steady).ContainerStatuses[0].ContainerID
	greedy := newPod("greedy", script("main", "cat /dev/zero > /data/x; touch /tmp/full; "+forever))
	greedy.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	greedy.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data"}}
	d.run(greedy)
	d.waitReady(greedy)
	d.wait("the disk to be full", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(state, &st) == nil && st.Bavail == 0
	})

	// A pod that comes now says why it cannot run; the one that runs is not touched.
	late := newPod("late", script("main", "cat /config/key; "+forever))
	late.Spec.Volumes = []v1.Volume{{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "c"}}}}}
	late.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "config", MountPath: "/config"}}
	d.run(late, &edgeapi.VolumeData{Name: "config", Files: []*edgeapi.File{{Path: "key", Data: []byte(strings.Repeat("x", 8192)), Mode: 0o644}}})
	d.wait("the event about the disk", func() bool {
		return d.sink.hasEvent(`Warning FailedMount : MountVolume.SetUp failed for volume "config"`) && d.sink.hasEvent("no space left on device")
	})
	if s := d.status(late); s.Phase != v1.PodPending {
		t.Errorf("the late pod is %s", s.Phase)
	}
	same := func(when string) {
		t.Helper()
		if out := d.mustExec(steady, "main", "echo", "alive"); out != "alive" {
			t.Errorf("%s: %q", when, out)
		}
		if s := d.status(steady); s.ContainerStatuses[0].ContainerID != container || !s.ContainerStatuses[0].Ready {
			t.Errorf("%s: %v", when, s.ContainerStatuses)
		}
	}
	same("with a full disk")

	// The one that filled it goes, what it filled is freed, and the late one starts.
	collector := d.keeper(eviction.Threshold{Signal: eviction.NodeFsAvailable, Value: config.Threshold{Fraction: 0.1}})
	d.evicted(greedy, "The node was low on resource: ephemeral-storage. Threshold quantity: ", true)
	if !collector.Pressure(v1.NodeDiskPressure) {
		t.Error("no disk pressure")
	}
	d.waitReady(late)
	same("afterwards")
	for _, pod := range []*v1.Pod{late, greedy, steady} {
		d.remove(pod, 0)
	}
	d.stop()
}

// shiftedClock is the real one, set forth or back.
type shiftedClock struct {
	clock.RealClock
	shift atomic.Int64
}

func (c *shiftedClock) Now() time.Time                  { return time.Now().Add(time.Duration(c.shift.Load())) }
func (c *shiftedClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// TestContainerdClockJumps sets the device's clock back and forth by a year.
func TestContainerdClockJumps(t *testing.T) {
	d := newDevice(t)
	d.stop()
	c := &shiftedClock{}
	d.clock = c
	d.start()
	steady, crash := newPod("steady", script("main", forever)), newPod("crash", script("main", "sleep 1; exit 3"))
	d.run(steady)
	d.run(crash)
	d.waitReady(steady)
	container := d.status(steady).ContainerStatuses[0].ContainerID
	restarts := func() int32 {
		if s := d.status(crash); len(s.ContainerStatuses) == 1 {
			return s.ContainerStatuses[0].RestartCount
		}
		return 0
	}
	d.wait("the first restart", func() bool { return restarts() >= 1 })
	const year = 365 * 24 * time.Hour
	for name, shift := range map[string]time.Duration{"back": -year, "forth": year} {
		before := restarts()
		c.shift.Store(int64(shift))
		d.wait("a restart after the clock was set "+name, func() bool { return restarts() > before })
		if s := d.status(steady); s.ContainerStatuses[0].ContainerID != container || s.ContainerStatuses[0].RestartCount != 0 || !s.ContainerStatuses[0].Ready {
			t.Errorf("%s: %v", name, s.ContainerStatuses)
		}
	}
	d.remove(crash, 0)
	d.remove(steady, 0)
}

// TestContainerdMalformedPods gives a device pods that cannot work: each is told of, and the one that can is
// not affected.
func TestContainerdMalformedPods(t *testing.T) {
	d := newDevice(t)
	good := newPod("good", script("main", forever))
	d.run(good)
	d.waitReady(good)
	container := d.status(good).ContainerStatuses[0].ContainerID
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, message := range malformed() {
		if name == "absurd numbers" {
			continue // the API server's limits are none that the runtime objects to
		}
		d.sink.mu.Lock()
		told := len(d.sink.events)
		delete(d.sink.statuses, message.Uid)
		d.sink.mu.Unlock()
		d.manager.RunPod(message)
		d.wait(name+": somebody to be told", func() bool {
			d.sink.mu.Lock()
			defer d.sink.mu.Unlock()
			return len(d.sink.events) > told && d.sink.statuses[message.Uid] != nil
		})
		d.sink.mu.Lock()
		s := d.sink.statuses[message.Uid]
		d.sink.mu.Unlock()
		if s.Phase != v1.PodFailed && s.Phase != v1.PodPending {
			t.Errorf("%s: %v", name, s)
		}
		d.manager.DeletePod(&edgeapi.DeletePod{Uid: message.Uid, Namespace: "default", Name: "bad"})
		d.wait(name+": it to go", func() bool {
			d.sink.mu.Lock()
			defer d.sink.mu.Unlock()
			return d.sink.removed[message.Uid]
		})
		// The next one has the same UID, which happens here alone.
		d.wait(name+": nothing of it to be left", func() bool {
			d.manager.mu.Lock()
			defer d.manager.mu.Unlock()
			return d.manager.workers[message.Uid] == nil
		})
		d.sink.mu.Lock()
		delete(d.sink.removed, message.Uid)
		d.sink.mu.Unlock()
	}
	if s := d.status(good); s.ContainerStatuses[0].ContainerID != container || !s.ContainerStatuses[0].Ready {
		t.Errorf("the good one: %v", s.ContainerStatuses)
	}
	if after, err := os.ReadDir(d.dir); err != nil || len(after) != len(entries) {
		t.Errorf("there is more beside the agent's directories: %v, %v", after, err)
	}
	d.remove(good, 0)
}

// TestContainerdCorruptRecord damages what lies on the disk of one of two pods while there is no agent.
func TestContainerdCorruptRecord(t *testing.T) {
	d := newDevice(t)
	lost, kept := newPod("lost", script("main", forever)), newPod("kept", script("main", forever))
	containers := map[*v1.Pod]string{}
	for _, pod := range []*v1.Pod{lost, kept} {
		d.run(pod)
		d.waitReady(pod)
		containers[pod] = d.status(pod).ContainerStatuses[0].ContainerID
	}
	d.stop()
	path := filepath.Join(d.dir, "state", "desired", string(lost.UID)+".pod")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	told := "Warning CorruptState : the record " + path + " cannot be used and was renamed to"
	d.wait("somebody to be told", func() bool { return d.sink.hasEvent(told) })
	if digests := d.manager.Digests(); len(digests) != 1 || digests[0].Uid != string(kept.UID) {
		t.Errorf("the agent knows %v", digests)
	}
	d.run(lost) // as the cloud does, because the agent does not know it
	d.manager.ResendStatuses()
	for pod, before := range containers {
		d.waitReady(pod)
		if cs := d.status(pod).ContainerStatuses[0]; cs.ContainerID != before || cs.RestartCount != 0 {
			t.Errorf("%s: container %s before, %v now", pod.Name, before, cs)
		}
		d.remove(pod, 0)
	}
}

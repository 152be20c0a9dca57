package pods

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/agent/cgroups"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// agent is a manager over a fake runtime, inside a synctest bubble: its clock runs when all is idle.
type agent struct {
	t       *testing.T
	dir     string
	runtime *fakeRuntime
	manager *Manager
	sink    *collector
	stop    func()
	admit   func(*v1.Pod, bool) (string, string, bool)
	clock   clock.WithTicker // nil for the real one
	cgroups *cgroups.Manager
	// saving is called before a status is kept, nil for nothing.
	saving func()
	// allocatable from the next start on; nil admits everything.
	allocatable v1.ResourceList
}

// simulate runs a test in a bubble.
func simulate(t *testing.T, test func(t *testing.T, a *agent)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := &agent{t: t, dir: dir, runtime: newFakeRuntime(clock.RealClock{})}
		a.start()
		test(t, a)
		a.stop()
	})
}

func (a *agent) start() {
	a.t.Helper()
	a.sink = newCollector()
	var err error
	a.manager, err = New(Config{
		Runtime: a.runtime, StateDir: filepath.Join(a.dir, "state"), LogDir: filepath.Join(a.dir, "logs"), Sink: a.sink, Key: testKey(a.t),
		Node: NodeInfo{HostIPs: []string{"192.0.2.7"}, Allocatable: a.allocatable}, Admit: a.admit, Clock: a.clock, Cgroups: a.cgroups,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	if save := a.manager.saveStatus; a.saving != nil {
		a.manager.saveStatus = func(uid string, s *v1.PodStatus, sync bool) error {
			a.saving()
			return save(uid, s, sync)
		}
	}
	ctx, cancel := context.WithCancel(a.t.Context())
	done := make(chan error, 1)
	manager := a.manager
	go func() { done <- manager.Run(ctx) }()
	a.stop = func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Error(err)
		}
	}
}

func (a *agent) restart() {
	a.stop()
	a.start()
	a.settle()
}

// settle waits until nothing more happens, and a little longer.
func (a *agent) settle() {
	time.Sleep(3 * time.Second)
	synctest.Wait()
}

func (a *agent) run(pod *v1.Pod) {
	a.t.Helper()
	data, err := pod.Marshal()
	if err != nil {
		a.t.Fatal(err)
	}
	a.manager.RunPod(&edgeapi.RunPod{Uid: string(pod.UID), Pod: data, Digest: "d", VolumesDigest: "v"})
	a.settle()
}

func (a *agent) status(pod *v1.Pod) *v1.PodStatus {
	a.sink.mu.Lock()
	defer a.sink.mu.Unlock()
	if s := a.sink.statuses[string(pod.UID)]; s != nil {
		return s
	}
	return &v1.PodStatus{}
}

func (a *agent) gone(pod *v1.Pod) bool {
	a.sink.mu.Lock()
	defer a.sink.mu.Unlock()
	return a.sink.removed[string(pod.UID)]
}

func (a *agent) delete(pod *v1.Pod, grace int64) {
	a.manager.DeletePod(&edgeapi.DeletePod{Uid: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, GracePeriodSeconds: grace})
	a.settle()
}

func TestPolicyThatHasBecomeStricter(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		a.run(pod)
		a.admit = func(*v1.Pod, bool) (string, string, bool) { return "HostPolicy", "forbidden by now", false }
		a.restart()
		if len(a.runtime.running()) != 0 || a.status(pod).Phase != v1.PodFailed {
			t.Errorf("the pod still runs: %v", a.status(pod))
		}
	})
}

// What runs already is not refused for want of resources when the agent starts: it is told apart.
func TestAdmissionOfKnownPods(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		asked := map[string]bool{}
		a.admit = func(pod *v1.Pod, known bool) (string, string, bool) {
			asked[pod.Name] = known
			return "", "", true
		}
		a.restart()
		a.run(newPod("old", box("main")))
		if known, ok := asked["old"]; !ok || known {
			t.Errorf("a new pod: asked %t, known %t", ok, known)
		}
		clear(asked)
		a.restart()
		a.run(newPod("new", box("main")))
		if !asked["old"] || asked["new"] || len(asked) != 2 {
			t.Errorf("after a restart: %v", asked)
		}
	})
}

func TestSandboxOfBeforeTheReboot(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		a.run(pod)
		if a.sink.hasEvent("SandboxChanged") {
			t.Errorf("got events %q of the first sandbox", a.sink.events)
		}
		a.stop()
		a.runtime.set(func() { // the machine has rebooted: nothing runs
			for _, s := range a.runtime.sandboxes {
				s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			}
		})
		a.runtime.end(a.runtime.running()["main"], 255)
		stopped := a.runtime.count("StopPodSandbox")
		a.start()
		a.settle()
		if cs := a.status(pod).ContainerStatuses[0]; cs.State.Running == nil || cs.RestartCount != 1 {
			t.Errorf("got %+v", cs)
		}
		if a.runtime.count("StopPodSandbox") == stopped {
			t.Error("the old sandbox was not stopped: it keeps its address")
		}
		if !a.sink.hasEvent("Normal SandboxChanged : Pod sandbox changed, it will be killed and re-created.") {
			t.Errorf("got events %q, want to be told of the new sandbox", a.sink.events)
		}
	})
}

func TestLostDirectoriesAreSwept(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		lost, logs := filepath.Join(a.dir, "state", "pods", "lost-uid"), filepath.Join(a.dir, "logs", "ns_name_lost-uid")
		for _, dir := range []string{lost, logs} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		a.settle()
		if _, err := os.Stat(lost); err != nil {
			t.Error("removed before the cloud has said what it wants")
		}
		a.manager.Desired(&edgeapi.DesiredPods{})
		a.settle()
		for _, dir := range []string{lost, logs} {
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s is still there", dir)
			}
		}
	})
}

func TestProbes(t *testing.T) {
	exec := func(period, threshold int32) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}, PeriodSeconds: period, FailureThreshold: threshold}
	}
	no := utilexec.CodeExitError{Err: errors.New("no"), Code: 1}
	simulate(t, func(t *testing.T, a *agent) {
		c := box("main")
		c.StartupProbe, c.ReadinessProbe, c.LivenessProbe = exec(1, 30), exec(2, 1), exec(2, 3)
		pod := newPod("p", c)
		a.runtime.set(func() { a.runtime.execErr = no })
		a.run(pod)
		if cs := a.status(pod).ContainerStatuses[0]; *cs.Started || cs.Ready {
			t.Errorf("got %+v before the startup probe succeeds", cs)
		}
		if a.runtime.count("ExecSync") > 5 {
			t.Error("the other probes did not wait for the startup probe")
		}
		a.runtime.set(func() { a.runtime.execErr = nil })
		a.settle()
		if cs := a.status(pod).ContainerStatuses[0]; !*cs.Started || !cs.Ready {
			t.Errorf("got %+v after the probes succeeded", cs)
		}
		a.runtime.set(func() { a.runtime.execErr = errors.New("connection reset") })
		time.Sleep(time.Minute)
		synctest.Wait()
		if cs := a.status(pod).ContainerStatuses[0]; !cs.Ready || cs.RestartCount != 0 {
			t.Errorf("got %+v: that the runtime does not answer is not the container's fault", cs)
		}
		id := a.runtime.running()["main"]
		a.restart()
		if s := a.sink.statuses[string(pod.UID)]; s != nil {
			t.Errorf("a ready container did not stay ready over a restart of the agent: %v", s)
		}
		a.runtime.set(func() { a.runtime.execErr = no })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if cs := a.status(pod).ContainerStatuses[0]; cs.Ready {
			t.Errorf("got %+v after the readiness probe failed", cs)
		}
		time.Sleep(4 * time.Second)
		a.settle()
		if cs := a.status(pod).ContainerStatuses[0]; cs.RestartCount != 1 || a.runtime.running()["main"] == id {
			t.Errorf("got %+v after the liveness probe failed", cs)
		}
	})
}

// TestReadyAsSoonAsStarted has a readiness probe whose turn would come long after the startup probe's.
func TestReadyAsSoonAsStarted(t *testing.T) {
	for name, tt := range map[string]struct {
		initialDelay int32
		ready        bool
	}{
		"no initial delay":         {ready: true},
		"initial delay is over":    {initialDelay: 1, ready: true},
		"within its initial delay": {initialDelay: 600},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				handler := v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}
				c := box("main")
				c.StartupProbe = &v1.Probe{ProbeHandler: handler, PeriodSeconds: 1, FailureThreshold: 1000}
				c.ReadinessProbe = &v1.Probe{ProbeHandler: handler, PeriodSeconds: 3000, InitialDelaySeconds: tt.initialDelay}
				pod := newPod("p", c)
				a.runtime.set(func() { a.runtime.execErr = utilexec.CodeExitError{Err: errors.New("no"), Code: 1} })
				a.run(pod)
				time.Sleep(30 * time.Second)
				a.runtime.set(func() { a.runtime.execErr = nil })
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if cs := a.status(pod).ContainerStatuses[0]; !*cs.Started || cs.Ready != tt.ready {
					t.Errorf("got started %t, ready %t ten seconds after the startup probe could succeed, want ready %t", *cs.Started, cs.Ready, tt.ready)
				}
			})
		})
	}
}

func TestLostRecordOfADesiredPod(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("kept", box("main"))
		a.run(pod)
		id := a.runtime.running()["main"]
		a.stop()
		record := filepath.Join(a.dir, "state", "desired", string(pod.UID)+".pod")
		if err := os.WriteFile(record, []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		a.start()
		a.settle()
		a.manager.Desired(&edgeapi.DesiredPods{Pods: []*edgeapi.PodDigest{{Uid: string(pod.UID)}}})
		a.settle()
		a.run(pod)
		if got := a.runtime.running()["main"]; got != id || got == "" {
			t.Errorf("container %q was replaced by %q", id, got)
		}
	})
}

func TestRestartKeepsContainers(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("steady", box("main"))
		a.run(pod)
		id := a.runtime.running()["main"]
		a.restart()
		if len(a.sink.statuses) != 0 {
			t.Error("a status was sent though nothing has changed")
		}
		pod.Labels["more"] = "y"
		pod.Generation++
		a.run(pod)
		if got := a.runtime.running()["main"]; got != id {
			t.Errorf("container %q was replaced by %q", id, got)
		}
		if s := a.status(pod); s.ObservedGeneration != 2 || s.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("got %v", s)
		}
		a.runtime.end(id, 1)
		a.settle()
		if s := a.status(pod); s.ContainerStatuses[0].RestartCount != 1 {
			t.Errorf("got restart count %d, want 1", s.ContainerStatuses[0].RestartCount)
		}
	})
}

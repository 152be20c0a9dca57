package pods

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/rights"
)

// A record that cannot be read is told of, keeps nothing else from running, and what runs of its pod is
// taken up again, not restarted, when the pod comes again from the cloud.
func TestCorruptRecord(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		lost, kept := newPod("lost", box("first")), newPod("kept", box("second"))
		a.run(lost)
		a.run(kept)
		before := a.runtime.running()
		a.stop()
		path := filepath.Join(a.dir, "state", "desired", string(lost.UID)+".pod")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		a.start()
		a.settle()
		if !a.sink.hasEvent("Warning CorruptState : the record " + path + " cannot be used and was renamed to") {
			t.Errorf("nobody is told: %q", a.sink.events)
		}
		if len(a.manager.Digests()) != 1 || len(a.runtime.running()) != 2 {
			t.Errorf("the agent knows %v, %v run", a.manager.Digests(), a.runtime.running())
		}
		a.run(lost)
		if after := a.runtime.running(); after["first"] != before["first"] || after["second"] != before["second"] {
			t.Errorf("before %v, after %v", before, after)
		}
		if _, err := os.Stat(path + ".corrupt"); !os.IsNotExist(err) {
			t.Errorf("what was set aside still lies there: %v", err)
		}
	})
}

// A pod that has ended and of which the record is lost comes again from the cloud, with the status that the
// cluster has: nothing is started, and its log is there as before.
func TestLostRecordOfAPodThatHasEnded(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("job", box("main"))
		pod.Spec.RestartPolicy = v1.RestartPolicyOnFailure
		a.run(pod)
		id := a.runtime.running()["main"]
		a.runtime.end(id, 0)
		a.settle()
		a.status(pod).DeepCopyInto(&pod.Status)
		path, _, err := a.manager.ContainerLog(string(pod.UID), "main", false)
		if err != nil || pod.Status.Phase != v1.PodSucceeded {
			t.Fatalf("before: %v, phase %s", err, pod.Status.Phase)
		}
		a.stop()
		if err := os.Truncate(filepath.Join(a.dir, "state", "desired", string(pod.UID)+".pod"), 0); err != nil {
			t.Fatal(err)
		}
		a.start()
		a.manager.Desired(&edgeapi.DesiredPods{Pods: []*edgeapi.PodDigest{{Uid: string(pod.UID)}}})
		a.settle()
		a.run(pod)
		again, againID, err := a.manager.ContainerLog(string(pod.UID), "main", false)
		if err != nil || again != path || againID != id {
			t.Errorf("the log was %s of %s, and is %s of %s (%v)", path, id, again, againID, err)
		}
		if s := a.status(pod); s.Phase != v1.PodSucceeded || a.runtime.count("StartContainer") != 1 {
			t.Errorf("phase %s after %d starts", s.Phase, a.runtime.count("StartContainer"))
		}
	})
}

// A device that has rebooted, and does not know the last status of a pod, cannot tell whether that has ended.
func TestLostStatus(t *testing.T) {
	for reason, spoil := range map[string]func(t *testing.T, path string) error{
		"damaged": func(_ *testing.T, path string) error { return os.Truncate(path, 0) },
		"unread": func(t *testing.T, path string) error {
			t.Helper()
			rights.Without(t, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH)
			return os.Chmod(path, 0)
		},
	} {
		for policy, tt := range map[v1.RestartPolicy]struct {
			starts int // of the container, before the cloud is heard
			phase  v1.PodPhase
		}{
			v1.RestartPolicyAlways:    {2, v1.PodRunning},
			v1.RestartPolicyOnFailure: {1, v1.PodSucceeded},
			v1.RestartPolicyNever:     {1, v1.PodSucceeded},
		} {
			t.Run(reason+" "+string(policy), func(t *testing.T) {
				simulate(t, func(t *testing.T, a *agent) {
					testLostStatus(t, a, policy, spoil, tt.starts, tt.phase)
				})
			})
		}
	}
}

func testLostStatus(t *testing.T, a *agent, policy v1.RestartPolicy, spoil func(*testing.T, string) error, starts int, phase v1.PodPhase) {
	t.Helper()
	pod := newPod("p", box("main"))
	pod.Spec.RestartPolicy = policy
	a.run(pod)
	if policy != v1.RestartPolicyAlways {
		a.runtime.end(a.runtime.running()["main"], 0)
		a.settle()
	}
	a.status(pod).DeepCopyInto(&pod.Status)
	a.stop()
	a.runtime.set(func() {
		clear(a.runtime.containers)
		clear(a.runtime.sandboxes)
	})
	if err := spoil(t, filepath.Join(a.dir, "state", "desired", string(pod.UID)+".status")); err != nil {
		t.Fatal(err)
	}
	a.start()
	a.settle()
	a.restart() // it is still lost
	if n := a.runtime.count("StartContainer"); n != starts {
		t.Errorf("started %d times without the cloud, want %d", n, starts)
	}
	a.manager.Desired(&edgeapi.DesiredPods{Pods: []*edgeapi.PodDigest{{Uid: string(pod.UID)}}})
	a.run(pod)
	a.restart()
	a.manager.ResendStatuses()
	if s := a.status(pod); s.Phase != phase || a.runtime.count("StartContainer") != starts {
		t.Errorf("phase %s after %d starts, want %s after %d", s.Phase, a.runtime.count("StartContainer"), phase, starts)
	}
}

package pods

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestAdmission(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := &agent{t: t, dir: dir, runtime: newFakeRuntime(clock.RealClock{}),
			admit: func(*v1.Pod, bool) (string, string, bool) {
				return "HostPolicy", "privileged pods are forbidden", false
			}}
		a.start()
		pod := newPod("refused", box("main"))
		a.run(pod)
		if s := a.status(pod); s.Phase != v1.PodFailed || s.Reason != "HostPolicy" || s.Message != "Pod was rejected: privileged pods are forbidden" {
			t.Errorf("got %v", s)
		}
		if !a.sink.hasEvent("Warning HostPolicy") {
			t.Errorf("got events %v", a.sink.events)
		}
		if len(a.runtime.sandboxes) != 0 {
			t.Error("a refused pod has a sandbox")
		}
		a.delete(pod, 0)
		if !a.gone(pod) {
			t.Error("the pod was not removed")
		}
		a.stop()
	})
}

func TestUnknownPodIsReportedRemoved(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("nobody", box("main"))
		a.runtime.set(func() { a.runtime.down = errors.New("down") })
		a.delete(pod, 1)
		if a.gone(pod) {
			t.Error("removal was confirmed though the runtime could not be asked")
		}
		a.runtime.set(func() { a.runtime.down = nil })
		a.settle()
		if !a.gone(pod) {
			t.Error("removal was not confirmed")
		}
		if len(a.manager.Digests()) != 0 {
			t.Error("the pod is still held")
		}
	})
}

func TestShorterGraceInterrupts(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("slow", box("main"))
		a.run(pod)
		a.runtime.set(func() { a.runtime.stopBlock = make(chan struct{}) })
		a.delete(pod, 300)
		a.delete(pod, 600) // longer: has no effect
		if a.gone(pod) {
			t.Fatal("gone too early")
		}
		block := a.runtime.stopBlock
		a.runtime.set(func() { a.runtime.stopBlock = nil })
		a.delete(pod, 0)
		close(block)
		if !a.gone(pod) {
			t.Error("the shorter grace period did not take effect")
		}
		if got := a.runtime.stops; len(got) != 2 || got[0] != 300 || got[1] != minGrace {
			t.Errorf("got grace periods %v", got)
		}
	})
}

// TestDeletionLetsAStartFinish deletes a pod while the runtime starts its container: the call goes on, for
// a while.
func TestDeletionLetsAStartFinish(t *testing.T) {
	for name, tt := range map[string]struct {
		takes  time.Duration
		starts int
	}{
		"soon":  {startPatience / 2, 1},
		"never": {time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.startBlock = block })
				pod := newPod("p", box("main"))
				a.run(pod)
				release := time.AfterFunc(tt.takes, func() { close(block) })
				defer release.Stop()
				a.delete(pod, 0)
				if a.gone(pod) {
					t.Error("gone while its container is being started")
				}
				time.Sleep(startPatience)
				a.settle()
				if !a.gone(pod) || a.runtime.count("StartContainer") != tt.starts {
					t.Errorf("gone: %t, starts that were let finish: %d, want true and %d", a.gone(pod), a.runtime.count("StartContainer"), tt.starts)
				}
			})
		})
	}
}

// TestTransitionAfterStopping has a pod take its time to stop: it was ready until it had.
func TestTransitionAfterStopping(t *testing.T) {
	for name, stop := range map[string]func(a *agent, pod *v1.Pod){
		"deleted": func(a *agent, pod *v1.Pod) { a.delete(pod, 300) },
		"evicted": func(a *agent, pod *v1.Pod) { a.manager.Evict(string(pod.UID), 300, "no room", true) },
		"overdue": func(_ *agent, pod *v1.Pod) { time.Sleep(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("slow", box("main"))
				pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](60)
				a.run(pod)
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = block })
				stop(a, pod)
				time.Sleep(5 * time.Minute)
				stopped := metav1.Now().Rfc3339Copy()
				close(block)
				a.settle()
				s := a.status(pod)
				if s.Phase != v1.PodFailed {
					t.Fatalf("got %v, want it failed", s)
				}
				for _, c := range s.Conditions {
					if c.Type != v1.PodInitialized && c.LastTransitionTime.Before(&stopped) {
						t.Errorf("got %v, want a transition when it had stopped, at %v", c, stopped)
					}
				}
			})
		})
	}
}

// TestReadinessWhileStopping has containers that take their time to stop: those whose readiness probe fails
// must be seen to be unready, and one that says that it is ready still counts.
func TestReadinessWhileStopping(t *testing.T) {
	handler := v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}
	sidecar := box("sidecar")
	sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	sidecar.ReadinessProbe = &v1.Probe{ProbeHandler: handler, PeriodSeconds: 2, FailureThreshold: 1}
	main := box("main")
	main.StartupProbe = &v1.Probe{ProbeHandler: handler, PeriodSeconds: 1, FailureThreshold: 1}
	main.ReadinessProbe = sidecar.ReadinessProbe
	main.LivenessProbe = sidecar.ReadinessProbe
	for name, stop := range map[string]func(a *agent, pod *v1.Pod){
		"deleted": func(a *agent, pod *v1.Pod) { a.delete(pod, 300) },
		"evicted": func(a *agent, pod *v1.Pod) { a.manager.Evict(string(pod.UID), 300, "no room", false) },
		"overdue": func(_ *agent, pod *v1.Pod) { time.Sleep(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("slow", main)
				pod.Spec.InitContainers = []v1.Container{sidecar}
				if name == "overdue" {
					pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](60)
				}
				a.run(pod)
				ready := func() v1.ConditionStatus { return conditionStatus(a.status(pod), v1.PodReady) }
				if ready() != v1.ConditionTrue {
					t.Fatalf("got %v before it is stopped", a.status(pod))
				}
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = block })
				stop(a, pod)
				time.Sleep(10 * time.Second)
				a.settle()
				if s := a.status(pod); ready() != v1.ConditionTrue || s.Phase != v1.PodRunning {
					t.Errorf("got %v while it stops and its probes succeed", s)
				}
				asked := a.runtime.count("ExecSync")
				a.runtime.set(func() { a.runtime.execErr = utilexec.CodeExitError{Err: errors.New("no"), Code: 1} })
				time.Sleep(4 * time.Second)
				synctest.Wait()
				s := a.status(pod)
				if ready() != v1.ConditionFalse || s.ContainerStatuses[0].Ready || s.InitContainerStatuses[0].Ready || s.Phase != v1.PodRunning {
					t.Errorf("got %v while it stops and its probes fail", s)
				}
				if !*s.ContainerStatuses[0].Started || s.ContainerStatuses[0].State.Running == nil {
					t.Errorf("got %v, want a container that runs and has started", s.ContainerStatuses[0])
				}
				if n := a.runtime.count("ExecSync") - asked; n != 4 {
					t.Errorf("asked %d times in 4 s, want twice for each readiness probe and no other", n)
				}
				for _, event := range a.sink.events {
					if strings.Contains(event, "Liveness") {
						t.Error("asked whether a container that is being stopped is alive")
					}
				}
				a.runtime.set(func() { a.runtime.stopBlock = nil })
				close(block)
				a.settle()
				if s := a.status(pod); !a.gone(pod) && s.Phase != v1.PodFailed {
					t.Errorf("got %v after it was stopped", s)
				}
			})
		})
	}
}

func conditionStatus(s *v1.PodStatus, t v1.PodConditionType) v1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func TestDeletionSurvivesRestart(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("going", box("main"))
		a.run(pod)
		a.runtime.set(func() { a.runtime.stopBlock = make(chan struct{}) })
		a.delete(pod, 300)
		a.stop()
		a.runtime.set(func() { a.runtime.stopBlock = nil })
		a.start()
		a.settle()
		if !a.gone(pod) {
			t.Error("the removal was forgotten")
		}
	})
}

// TestGenerationOfDeletion deletes a pod that takes its time to stop: that its deletion was seen is told at once.
func TestGenerationOfDeletion(t *testing.T) {
	for name, tt := range map[string]struct {
		sent, want int64
		restart    bool
	}{
		"told":                            {sent: 2, want: 2},
		"told before the agent's restart": {sent: 2, want: 2, restart: true},
		"older aranya":                    {sent: 0, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("slow", box("main"))
				a.run(pod)
				check := func(when string, phase v1.PodPhase) {
					t.Helper()
					s := a.status(pod)
					if s.Phase != phase || s.ObservedGeneration != tt.want {
						t.Errorf("%s: got %s with observedGeneration %d, want %s with %d", when, s.Phase, s.ObservedGeneration, phase, tt.want)
					}
					for _, c := range s.Conditions {
						if c.ObservedGeneration != tt.want {
							t.Errorf("%s: got %v, want observedGeneration %d", when, c, tt.want)
						}
					}
				}
				block := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = block })
				a.manager.DeletePod(&edgeapi.DeletePod{Uid: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, GracePeriodSeconds: 300, Generation: tt.sent})
				a.settle()
				check("while it stops", v1.PodRunning)
				if tt.restart {
					a.restart()
				}
				close(block)
				a.settle()
				check("in the end", v1.PodFailed)
			})
		})
	}
}

func TestCgroupParent(t *testing.T) {
	for driver, want := range map[runtimeapi.CgroupDriver]string{
		runtimeapi.CgroupDriver_CGROUPFS: "", runtimeapi.CgroupDriver_SYSTEMD: "arhat.slice",
	} {
		simulate(t, func(t *testing.T, a *agent) {
			a.runtime.driver = driver
			a.run(newPod("p", box("main")))
			if a.runtime.parent != want {
				t.Errorf("%v: got parent %q, want %q", driver, a.runtime.parent, want)
			}
		})
	}
}

func TestSandboxFailure(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.runtime.set(func() { a.runtime.sandboxErr = errors.New("no more networks") })
		pod := newPod("p", box("main"))
		a.run(pod)
		if !a.sink.hasEvent("Warning FailedCreatePodSandBox : Failed to create pod sandbox: no more networks") {
			t.Errorf("got events %v", a.sink.events)
		}
		if s := a.status(pod); s.Phase != v1.PodPending || s.ContainerStatuses[0].State.Waiting.Reason != "ContainerCreating" {
			t.Errorf("got %v", s)
		}
		if n := a.runtime.count("RunPodSandbox"); n != 1 {
			t.Errorf("tried %d times within 3 s, want once", n)
		}
		a.runtime.set(func() { a.runtime.sandboxErr = nil })
		time.Sleep(errorPeriod)
		a.settle()
		if a.status(pod).Phase != v1.PodRunning {
			t.Error("it was not tried again")
		}
	})
}

func TestContainerCannotBeCreated(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.runtime.set(func() { a.runtime.createErr = errors.New("bad mount") })
		pod := newPod("p", box("main"))
		a.run(pod)
		if w := a.status(pod).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "CreateContainerError" || w.Message != "bad mount" {
			t.Errorf("got %v", a.status(pod).ContainerStatuses)
		}
		bad := newPod("nonroot", box("main"))
		bad.Spec.SecurityContext = &v1.PodSecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](0)}
		a.run(bad)
		if w := a.status(bad).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "CreateContainerConfigError" ||
			!strings.HasPrefix(w.Message, "container's runAsUser breaks non-root policy") {
			t.Errorf("got %v", a.status(bad).ContainerStatuses)
		}
	})
}

func TestMissingVolumeContent(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		pod.Spec.Volumes = []v1.Volume{{Name: "c", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}}}
		a.run(pod)
		if !a.sink.hasEvent(`Warning FailedMount : MountVolume.SetUp failed for volume "c" : its content has not arrived`) {
			t.Errorf("got events %v", a.sink.events)
		}
		if a.runtime.count("RunPodSandbox") != 0 {
			t.Error("a pod without its volumes was started")
		}
		a.manager.UpdateVolumes(&edgeapi.UpdateVolumes{Uid: string(pod.UID), Volumes: []*edgeapi.VolumeData{{Name: "c"}}})
		a.settle()
		if a.status(pod).Phase != v1.PodRunning {
			t.Error("the pod does not run though the content has arrived")
		}
	})
}

// What a change of a pod leaves out of its volumes is what the device has; what the device has not is no change.
func TestKeptVolumes(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		pod.Spec.Volumes = []v1.Volume{
			{Name: "a", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}},
			{Name: "b", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}},
		}
		send := func(digest string, kept []string, volumes ...*edgeapi.VolumeData) {
			t.Helper()
			data, err := pod.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			a.manager.RunPod(&edgeapi.RunPod{
				Uid: string(pod.UID), Pod: data, Digest: digest, VolumesDigest: "v" + digest, Volumes: volumes, KeptVolumes: kept,
			})
			a.settle()
		}
		volume := func(name, content string) *edgeapi.VolumeData {
			return &edgeapi.VolumeData{Name: name, Files: []*edgeapi.File{{Path: "f", Data: []byte(content), Mode: 0o644}}}
		}
		expect := func(digest, first, second string) {
			t.Helper()
			d := a.manager.worker(string(pod.UID)).desired
			held := map[string]string{}
			for _, v := range d.message.Volumes {
				held[v.Name] = string(v.Files[0].Data)
			}
			if d.message.Digest != digest || d.message.VolumesDigest != "v"+digest || len(d.message.KeptVolumes) > 0 ||
				!reflect.DeepEqual(held, map[string]string{"a": first, "b": second}) || len(d.volumes) != 2 {
				t.Errorf("the device holds %v with the digests %s and %s", held, d.message.Digest, d.message.VolumesDigest)
			}
		}
		send("0", []string{"a"}, volume("b", "1"))
		if a.manager.worker(string(pod.UID)) != nil {
			t.Fatal("a pod with a volume that the device cannot have was taken")
		}
		send("1", nil, volume("a", "1"), volume("b", "1"))
		expect("1", "1", "1")
		pod.Labels = map[string]string{"changed": "yes"}
		send("2", []string{"a"}, volume("b", "2"))
		expect("2", "1", "2")
		if got := a.manager.worker(string(pod.UID)).desired.pod.Labels["changed"]; got != "yes" {
			t.Errorf("the pod has the label %q", got)
		}
		send("3", []string{"a", "c"}, volume("b", "3"))
		expect("2", "1", "2")
	})
}

func TestActiveDeadline(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](30)
		a.run(pod)
		// That it takes more than one attempt to stop the pod does not change why.
		a.runtime.set(func() { a.runtime.stopSandboxErr = errors.New("not now") })
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if n := a.runtime.count("StopPodSandbox"); n == 0 {
			t.Error("the pod was not to be stopped yet")
		}
		a.runtime.set(func() { a.runtime.stopSandboxErr = nil })
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if s := a.status(pod); s.Phase != v1.PodFailed || s.Reason != "DeadlineExceeded" {
			t.Errorf("got %v", s)
		}
		if len(a.runtime.running()) != 0 {
			t.Error("the container still runs")
		}
		time.Sleep(10 * resyncPeriod)
		synctest.Wait()
		if n := a.sink.countEvents("DeadlineExceeded"); n != 1 {
			t.Errorf("told %d times that the deadline is over, want once", n)
		}
		a.restart()
		if len(a.runtime.running()) != 0 || a.sink.hasEvent("DeadlineExceeded") {
			t.Errorf("after a restart of the agent: running %v, events %q", a.runtime.running(), a.sink.events)
		}
	})
}

func TestDeletionTimestamp(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		a.run(pod)
		pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		pod.DeletionGracePeriodSeconds = ptr.To[int64](1)
		a.run(pod)
		if !a.gone(pod) {
			t.Error("a pod with a deletionTimestamp was not removed")
		}
	})
}

func TestUnusablePodsAreReported(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.manager.RunPod(&edgeapi.RunPod{Uid: "x", Pod: []byte{0xff}})
		pod := newPod("p", box("main"))
		data, _ := pod.Marshal()
		a.manager.RunPod(&edgeapi.RunPod{Uid: "another", Pod: data})
		a.manager.RunPod(&edgeapi.RunPod{Uid: "../../etc", Pod: data})
		a.settle()
		if len(a.manager.Digests()) != 0 {
			t.Error("an unusable pod is held")
		}
		if !a.sink.hasEvent("FailedValidation") {
			t.Error("nobody was told")
		}
	})
}

func TestEventsAreNotRepeated(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		for range 5 {
			a.manager.events.event("pod", "", v1.EventTypeWarning, "BackOff", "the same")
		}
		a.manager.events.event("pod", "", v1.EventTypeWarning, "BackOff", "another\xff")
		if n := len(a.sink.events); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
		time.Sleep(repeatInterval)
		a.manager.events.event("pod", "", v1.EventTypeWarning, "BackOff", "the same")
		if n := len(a.sink.events); n != 3 {
			t.Errorf("%d events after a while, want 3", n)
		}
	})
}

package pods

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
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

// TestSandboxCannotBeStopped has a pod need another sandbox while the one that it has cannot be stopped.
func TestSandboxCannotBeStopped(t *testing.T) {
	for name, spoil := range map[string]func(*runtimeapi.PodSandboxStatus){
		"it has no address":              func(s *runtimeapi.PodSandboxStatus) { s.Network.Ip = "" },
		"it is not ready, as reboots do": func(s *runtimeapi.PodSandboxStatus) { s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pod := newPod("p", box("main"))
				a.run(pod)
				a.stop()
				a.runtime.end(a.runtime.running()["main"], 255)
				a.runtime.set(func() {
					for _, s := range a.runtime.sandboxes {
						spoil(s)
					}
					a.runtime.stopSandboxErr = errors.New("cni plugin not initialized")
				})
				a.start()
				a.settle()
				before := a.runtime.count("StopPodSandbox")
				time.Sleep(3 * errorPeriod)
				if n := a.runtime.count("StopPodSandbox") - before; n != 3 {
					t.Errorf("tried %d times in %v, want each %v", n, 3*errorPeriod, errorPeriod)
				}
				a.runtime.set(func() { a.runtime.stopSandboxErr = nil })
				time.Sleep(errorPeriod)
				synctest.Wait()
				if a.runtime.running()["main"] == "" {
					t.Errorf("not started %v after the sandbox could be stopped", errorPeriod)
				}
			})
		})
	}
}

// A pod whose image takes long to pull is not looked at again for it: it is woken when the image is there.
func TestSlowPull(t *testing.T) {
	for name, set := range map[string]func(*v1.Pod){
		"of a container": func(pod *v1.Pod) { pod.Spec.Containers[0].Image = "slow" },
		"of an init container": func(pod *v1.Pod) {
			pod.Spec.InitContainers = []v1.Container{box("init")}
			pod.Spec.InitContainers[0].Image = "slow"
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				pulled := make(chan struct{})
				a.runtime.set(func() { a.runtime.pullBlock = pulled })
				pod := newPod("p", box("main"))
				set(pod)
				a.run(pod)
				before := a.runtime.count("PodSandboxStatus")
				time.Sleep(resyncPeriod / 2)
				if n := a.runtime.count("PodSandboxStatus") - before; n != 0 {
					t.Errorf("looked at the pod %d times in %v", n, resyncPeriod/2)
				}
				close(pulled)
				a.settle()
				if len(a.runtime.running()) == 0 {
					t.Error("nothing was started when the image was there")
				}
			})
		})
	}
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

// A change of a pod whose RuntimeClass is gone keeps the handler that the device has, also over a restart of the agent.
// A pod that the device does not have is not taken without.
func TestKeptRuntimeHandler(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		send := func(handler string) {
			t.Helper()
			pod.Spec.RuntimeClassName = &handler
			a.run(pod)
		}
		send("")
		if a.manager.worker(string(pod.UID)) != nil {
			t.Fatal("a pod was taken without its handler")
		}
		send("runsc")
		pod.Labels = map[string]string{"changed": "yes"}
		send("")
		expect := func(when string) {
			t.Helper()
			got := a.manager.worker(string(pod.UID)).desired.pod
			if ptr.Deref(got.Spec.RuntimeClassName, "") != "runsc" || got.Labels["changed"] != "yes" {
				t.Errorf("%s the device has the handler %q and the labels %v", when, ptr.Deref(got.Spec.RuntimeClassName, ""), got.Labels)
			}
		}
		expect("after the change")
		a.restart()
		expect("after a restart")
		if got := a.runtime.count("RunPodSandbox"); got != 1 {
			t.Errorf("%d sandboxes were made, want 1", got)
		}
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

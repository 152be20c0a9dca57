package pods

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/edge/agent/images"
	"arhat.dev/aranya/test/framework/containerd"
)

// TestContainerdImageGC fills a containerd with images and has them collected.
func TestContainerdImageGC(t *testing.T) {
	d := newDevice(t)
	for _, name := range []string{"test.local/running:1", "test.local/waiting:1", "test.local/ended:1", "test.local/unused:1"} {
		image, err := containerd.Busybox(name)
		if err != nil {
			t.Fatal(err)
		}
		image.Env = append(image.Env, "NAME="+name) // or all were one image with several names
		if err := d.server.Import(t.Context(), image); err != nil {
			t.Fatal(err)
		}
	}
	with := func(image string, pod *v1.Pod) *v1.Pod {
		pod.Spec.Containers[0].Image = image
		return pod
	}
	running, ended := with("test.local/running:1", newPod("running", script("main", forever))), with("test.local/ended:1", newPod("ended", script("main", "true")))
	ended.Spec.RestartPolicy = v1.RestartPolicyNever
	waiting := newPod("waiting", script("main", forever))
	// The init container never ends, so that nothing but the spec tells of the other image.
	waiting.Spec.InitContainers, waiting.Spec.Containers[0].Image = []v1.Container{script("init", forever)}, "test.local/waiting:1"
	for _, pod := range []*v1.Pod{running, ended, waiting} {
		d.run(pod)
	}
	d.waitReady(running)
	d.waitPhase(ended, v1.PodSucceeded)
	present := func() string {
		t.Helper()
		list, err := d.runtime.ListImages(t.Context(), &runtimeapi.ImageFilter{})
		if err != nil {
			t.Fatal(err)
		}
		var tags []string
		for _, image := range list {
			tags = append(tags, image.RepoTags...)
		}
		return strings.Join(tags, " ")
	}
	collector := images.NewCollector(d.runtime, clock.RealClock{}, images.GCPolicy{HighThresholdPercent: 1, MinAge: time.Nanosecond}, d.manager.Images, d.manager.DeviceEvent)
	check := func(when string, want ...string) {
		t.Helper()
		// It cannot free as much as it is told to, which it says.
		if err := collector.Collect(t.Context(), time.Now()); err == nil || !strings.Contains(err.Error(), "Failed to free sufficient space") {
			t.Errorf("%s: got error %v", when, err)
		}
		have := present()
		for _, name := range []string{"pause", "running", "waiting", "ended", "unused", "box"} {
			wanted := strings.Contains(strings.Join(want, " "), name)
			if got := strings.Contains(have, "test.local/"+name+":1"); got != wanted {
				t.Errorf("%s: %s is present: %t; have %s", when, name, got, have)
			}
		}
	}
	// A container that has ended keeps its image, as does the one that a pod waits for.
	check("with three pods", "pause", "running", "waiting", "ended", "box")
	if !d.sink.hasEvent("Warning FreeDiskSpaceFailed") {
		t.Errorf("no event about it in %q", d.sink.events)
	}
	d.remove(ended, 0)
	d.remove(waiting, 0)
	check("with one pod", "pause", "running")
	if out := d.mustExec(running, "main", "echo", "alive"); out != "alive" {
		t.Errorf("the pod is not well: %q", out)
	}
	// The sandbox image was spared, so that new pods still start.
	next := with("test.local/running:1", newPod("next", script("main", forever)))
	d.run(next)
	d.waitReady(next)
	d.remove(next, 0)
	d.remove(running, 0)
}

// TestContainerdImageProblems has images that cannot be had, and the words of the kubelet for it.
func TestContainerdImageProblems(t *testing.T) {
	d := newDevice(t)
	type want struct{ reason, message string }
	pods := map[*v1.Pod]want{}
	for image, w := range map[string]want{
		"test.local/absent:1":  {"ErrImageNeverPull", `Container image "test.local/absent:1" is not present with pull policy of Never`},
		"Not/Valid:1":          {"InvalidImageName", `Failed to apply default image tag "Not/Valid:1": couldn't parse image name "Not/Valid:1": invalid reference format: `},
		"127.0.0.1:1/nobody:1": {"ImagePullBackOff", `Back-off pulling image "127.0.0.1:1/nobody:1": ErrImagePull: `},
	} {
		pod := newPod("pod", script("main", forever))
		pod.Spec.Containers[0].Image = image
		if w.reason == "ErrImageNeverPull" {
			pod.Spec.Containers[0].ImagePullPolicy = v1.PullNever
		}
		pods[pod] = w
		d.run(pod)
	}
	for pod, w := range pods {
		d.wait(w.reason, func() bool {
			s := d.status(pod)
			if len(s.ContainerStatuses) != 1 || s.ContainerStatuses[0].State.Waiting == nil || s.Phase != v1.PodPending {
				return false
			}
			waiting := s.ContainerStatuses[0].State.Waiting
			return waiting.Reason == w.reason && strings.HasPrefix(waiting.Message, w.message)
		})
	}
	for _, event := range []string{"Warning Failed spec.containers{main}: Failed to pull image \"127.0.0.1:1/nobody:1\"", "Warning Failed spec.containers{main}: Error: ErrImagePull",
		"Normal BackOff spec.containers{main}: Back-off pulling image", "Warning InspectFailed spec.containers{main}: Failed to apply default image tag"} {
		if !d.sink.hasEvent(event) {
			t.Errorf("no event %q in %q", event, d.sink.events)
		}
	}
	// The image that is there at last is found, without a new pod.
	for pod, w := range pods {
		if w.reason == "ErrImageNeverPull" {
			image, err := containerd.Busybox("test.local/absent:1")
			if err != nil {
				t.Fatal(err)
			}
			if err := d.server.Import(t.Context(), image); err != nil {
				t.Fatal(err)
			}
			d.waitReady(pod)
		}
		d.remove(pod, 0)
	}
}

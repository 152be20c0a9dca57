package pods

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// staticNames are the static pods that the cloud was told of last.
func (a *agent) staticNames() []string {
	a.sink.mu.Lock()
	defer a.sink.mu.Unlock()
	names := []string{}
	for _, p := range a.sink.static.GetPods() {
		pod := &v1.Pod{}
		if err := pod.Unmarshal(p.Pod); err != nil || string(pod.UID) != p.Uid {
			a.t.Errorf("static pod %s: %v", p.Uid, err)
		}
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}

func TestStaticPods(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		web, other := newPod("web", box("web")), newPod("other", box("other"))
		a.manager.SetStatic([]*v1.Pod{web, other})
		a.settle()
		before := a.runtime.running()
		if len(before) != 2 || a.status(web).Phase != v1.PodRunning {
			t.Fatalf("running %v, status %+v", before, a.status(web))
		}
		if got := fmt.Sprint(a.staticNames()); got != "[other web]" {
			t.Errorf("the cloud is told of %s", got)
		}
		// The cloud has no say in them.
		a.manager.Desired(&edgeapi.DesiredPods{})
		a.delete(web, 0)
		a.run(web)
		a.manager.UpdateVolumes(&edgeapi.UpdateVolumes{Uid: string(web.UID)})
		a.settle()
		if len(a.manager.Digests()) != 0 {
			t.Errorf("they are told as pods of the cloud: %v", a.manager.Digests())
		}
		a.stop()
		a.start()
		a.manager.SetStatic([]*v1.Pod{web, other})
		a.settle()
		if after := a.runtime.running(); after["web"] != before["web"] || after["other"] != before["other"] {
			t.Errorf("before %v, after %v", before, after)
		}
	})
}

// When a static pod was seen first does not change when the folder is read again, nor with the agent.
func TestStaticPodSeen(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		web := newPod("web", box("web"))
		seen := func(when string) *v1.Pod {
			pod := web.DeepCopy()
			pod.Annotations = map[string]string{staticpod.AnnotationSeen: when}
			return pod
		}
		told := func() string {
			a.sink.mu.Lock()
			defer a.sink.mu.Unlock()
			pod := &v1.Pod{}
			if err := pod.Unmarshal(a.sink.static.GetPods()[0].Pod); err != nil {
				t.Fatal(err)
			}
			return pod.Annotations[staticpod.AnnotationSeen]
		}
		former := newPod("web", box("former"))
		former.UID = types.UID("0123456789abcdef0123456789abcdef")
		a.manager.SetStatic([]*v1.Pod{former})
		a.settle()
		block := make(chan struct{})
		a.runtime.set(func() { a.runtime.stopBlock = block })
		a.manager.SetStatic([]*v1.Pod{seen("first")})
		a.settle()
		a.manager.SetStatic([]*v1.Pod{seen("while it waits for the former one")})
		close(block)
		a.settle()
		if got := told(); got != "first" {
			t.Errorf("the cloud is told %q", got)
		}
		a.stop()
		a.start()
		a.manager.SetStatic([]*v1.Pod{seen("after a restart")})
		a.settle()
		if got := told(); got != "first" {
			t.Errorf("the cloud is told %q after a restart", got)
		}
	})
}

// Those that do not fit into one message run, and are told of in another way.
func TestStaticPodsThatAreTooLargeTogether(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		var pods []*v1.Pod
		for i := range staticpod.MaxTotal/staticpod.MaxSize + 3 { // two too many
			name := fmt.Sprintf("web-%02d", i)
			pod := newPod(name, box(name))
			pod.Annotations = map[string]string{"large": strings.Repeat("x", staticpod.MaxSize-2<<10)}
			pods = append(pods, pod)
		}
		small := newPod("web-small", box("web-small"))
		a.manager.SetStatic(append(pods, small))
		a.settle()
		if running := a.runtime.running(); len(running) != len(pods)+1 {
			t.Errorf("running %d, want %d", len(running), len(pods)+1)
		}
		message := &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_StaticPods{StaticPods: a.sink.static}}
		if size := proto.Size(message); size > edgeapi.MaxDeviceMessage {
			t.Errorf("a message of %d bytes", size)
		}
		told := a.staticNames()
		if !slices.Contains(told, small.Name) {
			t.Errorf("the cloud is told of %v, not of the small one", told)
		}
		left := 0
		for _, pod := range pods {
			if slices.Contains(told, pod.Name) {
				continue
			}
			left++
			if !a.sink.hasEvent("Warning FailedCreateMirrorPod : Static pod " + pod.Name + " cannot be shown") {
				t.Errorf("nobody is told that %s is left out", pod.Name)
			}
		}
		if left != 2 {
			t.Errorf("%d are left out, want 2", left)
		}
	})
}

// What was taken out of the folder while there was no agent goes, without a word from the cloud.
func TestStaticPodRemovedMeanwhile(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		web, other := newPod("web", box("web")), newPod("other", box("other"))
		a.manager.SetStatic([]*v1.Pod{web, other})
		a.settle()
		a.stop()
		a.start()
		a.manager.SetStatic([]*v1.Pod{other})
		a.settle()
		if running := a.runtime.running(); len(running) != 1 || running["other"] == "" {
			t.Errorf("running %v", running)
		}
		if got := fmt.Sprint(a.staticNames()); got != "[other]" || !a.gone(web) {
			t.Errorf("the cloud is told of %s, removed %v", got, a.gone(web))
		}
	})
}

// With its content the UID of a static pod changes. The new one starts when the old one has ended.
func TestStaticPodChanged(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		web := newPod("web", box("web"))
		a.manager.SetStatic([]*v1.Pod{web})
		a.settle()
		former := a.runtime.running()["web"]
		block := make(chan struct{})
		a.runtime.mu.Lock()
		a.runtime.stopBlock = block
		a.runtime.mu.Unlock()
		changed := web.DeepCopy()
		changed.UID = types.UID("0123456789abcdef0123456789abcdef")
		starts := a.runtime.count("StartContainer")
		a.manager.SetStatic([]*v1.Pod{changed})
		a.settle()
		if a.runtime.count("StartContainer") != starts {
			t.Error("both run at the same time")
		}
		close(block)
		a.settle()
		if now := a.runtime.running()["web"]; now == "" || now == former {
			t.Errorf("running %q, before %q", now, former)
		}
		if a.manager.worker(string(web.UID)) != nil {
			t.Error("the former one is still there")
		}
		// Back to what it was before, and gone.
		a.manager.SetStatic([]*v1.Pod{web})
		a.settle()
		a.manager.SetStatic(nil)
		a.settle()
		if len(a.runtime.running()) != 0 || len(a.staticNames()) != 0 {
			t.Errorf("left: %v, told of %v", a.runtime.running(), a.staticNames())
		}
	})
}

// The device's policy is about what the cloud may do, not about what its owner has put into the folder.
func TestStaticPodsAreNotSubjectToThePolicy(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.stop()
		a.admit = func(*v1.Pod, bool) (string, string, bool) { return "ForbiddenByDevice", "no", false }
		a.start()
		static, cloud := newPod("static", box("static")), newPod("cloud", box("cloud"))
		a.manager.SetStatic([]*v1.Pod{static})
		a.run(cloud)
		if running := a.runtime.running(); len(running) != 1 || running["static"] == "" {
			t.Errorf("running %v", running)
		}
	})
}

// A static pod that does not fit waits until another gives back what it needs.
func TestStaticPodWaitsForRoom(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		withPort := func(name string) *v1.Pod {
			pod := newPod(name, box(name))
			pod.Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
			return pod
		}
		former, next := withPort("former"), withPort("next")
		a.manager.SetStatic([]*v1.Pod{former})
		a.settle()
		a.manager.SetStatic([]*v1.Pod{former, next})
		a.settle()
		before := a.runtime.running()
		waits := func(when string) {
			t.Helper()
			if now := a.runtime.running(); len(now) != 1 || now["former"] != before["former"] {
				t.Errorf("%s: running %v, before %v", when, now, before)
			}
			s := a.status(next)
			if s.Phase != v1.PodPending || s.StartTime != nil || len(s.ContainerStatuses) != 1 {
				t.Fatalf("%s: got %v", when, s)
			}
			if w := s.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "NodePorts" || w.Message == "" {
				t.Errorf("%s: got %v", when, s.ContainerStatuses[0].State)
			}
		}
		waits("at first")
		if !a.sink.hasEvent("Warning NodePorts") {
			t.Errorf("got events %v", a.sink.events)
		}
		a.stop()
		a.start()
		a.manager.SetStatic([]*v1.Pod{former, next})
		a.settle()
		a.manager.ResendStatuses()
		waits("after a restart")

		block := make(chan struct{})
		a.runtime.set(func() { a.runtime.stopBlock = block })
		a.manager.SetStatic([]*v1.Pod{next})
		a.settle()
		waits("while the former one stops")
		close(block)
		a.settle()
		if now := a.runtime.running(); len(now) != 1 || now["next"] == "" {
			t.Errorf("running %v", now)
		}
		if s := a.status(next); s.Phase != v1.PodRunning || s.StartTime == nil {
			t.Errorf("got %v", s)
		}
	})
}

// At the agent's start there may be less room than before. What does not fit is stopped, and runs again when it fits.
func TestStaticPodLosesItsRoom(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("p"))
		pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}
		a.manager.SetStatic([]*v1.Pod{pod})
		a.settle()
		a.stop()
		a.allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m")}
		a.start()
		a.manager.SetStatic([]*v1.Pod{pod})
		a.settle()
		s := a.status(pod)
		if w := s.ContainerStatuses[0].State.Waiting; len(a.runtime.running()) != 0 || podutil.IsTerminal(s.Phase) || w == nil || w.Reason != "OutOfcpu" {
			t.Errorf("running %v, status %v", a.runtime.running(), s)
		}
		a.manager.SetNode(NodeInfo{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}})
		a.settle()
		if len(a.runtime.running()) != 1 || a.status(pod).Phase != v1.PodRunning {
			t.Errorf("running %v, status %v", a.runtime.running(), a.status(pod))
		}
	})
}

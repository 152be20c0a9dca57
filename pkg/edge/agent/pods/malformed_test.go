package pods

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// malformed pods are such as no API server lets through, or that cannot work on the device.
func malformed() map[string]*edgeapi.RunPod {
	mount := func(subPath string) v1.Container {
		c := box("main")
		c.VolumeMounts = []v1.VolumeMount{{Name: "data", MountPath: "/data", SubPath: subPath}}
		return c
	}
	emptyDir := v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}
	secret := v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s"}}}
	message := func(pod *v1.Pod, change func(*v1.Pod), files ...*edgeapi.File) *edgeapi.RunPod {
		pod.UID = "bad"
		if change != nil {
			change(pod)
		}
		data, err := pod.Marshal()
		if err != nil {
			panic(err)
		}
		r := &edgeapi.RunPod{Uid: "bad", Pod: data, Digest: "d"}
		if files != nil {
			r.Volumes = []*edgeapi.VolumeData{{Name: "data", Files: files}}
		}
		return r
	}
	with := func(change func(*v1.Pod)) *edgeapi.RunPod { return message(newPod("bad", box("main")), change) }
	return map[string]*edgeapi.RunPod{
		"no pod":                {Uid: "bad", Pod: []byte{0xff, 0xff}},
		"nothing":               {Uid: "bad"},
		"UID that is a path":    {Uid: "../../bad", Pod: with(func(p *v1.Pod) { p.UID = "../../bad" }).Pod},
		"another UID":           with(func(p *v1.Pod) { p.UID = "good" }),
		"name that is a path":   with(func(p *v1.Pod) { p.Name = "../../../bad" }),
		"namespace that is one": with(func(p *v1.Pod) { p.Namespace = "../../bad" }),
		"container that is one": with(func(p *v1.Pod) { p.Spec.Containers[0].Name = "../../bad" }),
		"volume that is one": with(func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "../../../../bad", VolumeSource: emptyDir.VolumeSource}}
		}),
		"two of a name":          with(func(p *v1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0]) }),
		"no containers":          with(func(p *v1.Pod) { p.Spec.Containers = nil }),
		"probe without a period": with(func(p *v1.Pod) { p.Spec.Containers[0].LivenessProbe = &v1.Probe{} }),
		"endless probe": with(func(p *v1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: -1, TimeoutSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1}
		}),
		"volume without content": message(newPod("bad", mount("")), func(p *v1.Pod) { p.Spec.Volumes = []v1.Volume{secret} }),
		"volume of no kind":      message(newPod("bad", mount("")), func(p *v1.Pod) { p.Spec.Volumes = []v1.Volume{{Name: "data"}} }),
		"mount of no volume":     message(newPod("bad", mount("")), nil),
		"file outside":           message(newPod("bad", mount("")), func(p *v1.Pod) { p.Spec.Volumes = []v1.Volume{secret} }, &edgeapi.File{Path: "../../../../../../bad", Data: []byte("x"), Mode: 0o777}),
		"absolute file":          message(newPod("bad", mount("")), func(p *v1.Pod) { p.Spec.Volumes = []v1.Volume{secret} }, &edgeapi.File{Path: "/bad", Mode: 0xffffffff}),
		"subPath outside":        message(newPod("bad", mount("../../../../../bad")), func(p *v1.Pod) { p.Spec.Volumes = []v1.Volume{emptyDir} }),
		"absurd numbers": with(func(p *v1.Pod) {
			p.Spec.TerminationGracePeriodSeconds, p.Spec.ActiveDeadlineSeconds = ptr.To[int64](-1<<62), ptr.To[int64](1<<62)
			p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("999999999999Ti"), v1.ResourceCPU: resource.MustParse("-5")}
		}),
	}
}

// One malformed pod gets a status or an event that tells what is wrong, and nothing else happens.
func TestMalformedPods(t *testing.T) {
	for name, message := range malformed() {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				good := newPod("good", box("good"))
				a.run(good)
				before := a.runtime.running()["good"]
				a.manager.RunPod(message)
				a.settle()
				checkUnharmed(t, a, before)
				if name == "absurd numbers" {
					return // it is up to the runtime
				}
				if running := a.runtime.running(); len(running) != 1 {
					t.Errorf("running %v", running)
				}
				if len(a.sink.events) < 3 { // Pulled, Created and Started are the good one's
					t.Errorf("nobody is told: %q", a.sink.events)
				}
				s := a.status(&v1.Pod{})
				a.sink.mu.Lock()
				if got := a.sink.statuses[message.Uid]; got != nil {
					s = got
				}
				a.sink.mu.Unlock()
				waiting := len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].State.Waiting != nil
				if s.Phase != v1.PodFailed && !waiting {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// checkUnharmed looks at what a malformed pod must not have touched.
func checkUnharmed(t *testing.T, a *agent, before string) {
	t.Helper()
	if now := a.runtime.running()["good"]; now != before {
		t.Errorf("the other pod: container %s before, %q now", before, now)
	}
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); name != "state" && name != "logs" {
			t.Errorf("there is %s beside the agent's directories", name)
		}
	}
}

// FuzzServerMessage gives the manager what a server may send.
func FuzzServerMessage(f *testing.F) {
	add := func(m *edgeapi.ServerMessage) {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, message := range malformed() {
		add(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_RunPod{RunPod: message}})
	}
	add(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_UpdateVolumes{UpdateVolumes: &edgeapi.UpdateVolumes{Uid: "bad", Volumes: []*edgeapi.VolumeData{{}}}}})
	add(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DeletePod{DeletePod: &edgeapi.DeletePod{Uid: "../bad", GracePeriodSeconds: -1 << 63}}})
	add(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DeletePod{DeletePod: &edgeapi.DeletePod{Uid: "bad", GracePeriodSeconds: 1<<63 - 1}}})
	add(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DesiredPods{DesiredPods: &edgeapi.DesiredPods{Pods: []*edgeapi.PodDigest{{}, {Uid: "x"}}}}})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &edgeapi.ServerMessage{}
		if proto.Unmarshal(data, m) != nil {
			return
		}
		hangs := time.AfterFunc(30*time.Second, func() { panic(fmt.Sprintf("%x: the agent never comes to rest", data)) })
		defer hangs.Stop()
		simulate(t, func(t *testing.T, a *agent) {
			// A path of the host is the owner's business; here it would be this machine's.
			a.stop()
			a.admit = func(pod *v1.Pod, _ bool) (string, string, bool) {
				return "Fuzz", "no hostPath", !strings.Contains(pod.String(), "HostPath:&")
			}
			a.start()
			good := newPod("good", box("good"))
			good.UID = types.UID("good")
			a.run(good)
			before := a.runtime.running()["good"]
			switch x := m.GetMessage().(type) {
			case *edgeapi.ServerMessage_RunPod:
				if x.RunPod.Uid == "good" {
					return
				}
				a.manager.RunPod(x.RunPod)
			case *edgeapi.ServerMessage_UpdateVolumes:
				a.manager.UpdateVolumes(x.UpdateVolumes)
			case *edgeapi.ServerMessage_DeletePod:
				if x.DeletePod.Uid == "good" {
					return
				}
				a.manager.DeletePod(x.DeletePod)
			case *edgeapi.ServerMessage_DesiredPods:
				x.DesiredPods.Pods = append(x.DesiredPods.Pods, &edgeapi.PodDigest{Uid: "good"})
				a.manager.Desired(x.DesiredPods)
			default:
				return
			}
			a.settle()
			checkUnharmed(t, a, before)
		})
	})
}

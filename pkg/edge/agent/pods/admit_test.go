package pods

import (
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// forbidPrivileged is a device's policy.
func forbidPrivileged(pod *v1.Pod, _ bool) (reason, message string, ok bool) {
	privileged := func(c v1.Container) bool {
		return c.SecurityContext != nil && ptr.Deref(c.SecurityContext.Privileged, false)
	}
	for _, c := range pod.Spec.Containers {
		if privileged(c) {
			return "ForbiddenByDevice", "no privileged containers", false
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if privileged(v1.Container(c.EphemeralContainerCommon)) {
			return "ForbiddenByDevice", "no privileged containers", false
		}
	}
	return "", "", true
}

func privilegedBox(name string) v1.Container {
	c := box(name)
	c.SecurityContext = &v1.SecurityContext{Privileged: ptr.To(true)}
	return c
}

func debugger(c v1.Container) v1.EphemeralContainer {
	return v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon(c)}
}

// What the owner of the device forbids does not come in through the back door: into a pod that was admitted.
func TestForbiddenEphemeralContainer(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.admit = forbidPrivileged
		a.restart()
		pod := newPod("p", box("main"))
		a.run(pod)
		main := a.runtime.running()["main"]
		pod.Spec.EphemeralContainers = []v1.EphemeralContainer{debugger(privilegedBox("root")), debugger(box("plain"))}
		a.run(pod)
		check := func(when string) {
			t.Helper()
			if now := a.runtime.running(); a.runtime.count("CreateContainer root") != 0 || len(now) != 2 || now["main"] != main || now["plain"] == "" {
				t.Errorf("%s: running %v", when, now)
			}
			s := a.status(pod)
			if s.Phase != v1.PodRunning || len(s.EphemeralContainerStatuses) != 2 {
				t.Fatalf("%s: got %v", when, s)
			}
			w := s.EphemeralContainerStatuses[0].State.Waiting
			if w == nil || w.Reason != "ForbiddenByDevice" || w.Message != "no privileged containers" {
				t.Errorf("%s: got %v", when, s.EphemeralContainerStatuses[0].State)
			}
		}
		check("running")
		if !a.sink.hasEvent("Warning ForbiddenByDevice spec.ephemeralContainers{root}: no privileged containers") {
			t.Errorf("got events %v", a.sink.events)
		}
		a.restart()
		a.manager.ResendStatuses()
		check("after a restart")
	})
}

// An ephemeral container that runs from before the policy forbade it is stopped, and nothing else.
func TestEphemeralContainerForbiddenByNow(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("p", box("main"))
		pod.Spec.EphemeralContainers = []v1.EphemeralContainer{debugger(privilegedBox("root"))}
		a.run(pod)
		before := a.runtime.running()
		if before["root"] == "" {
			t.Fatalf("running %v", before)
		}
		a.admit = forbidPrivileged
		a.restart()
		if now := a.runtime.running(); len(now) != 1 || now["main"] != before["main"] {
			t.Errorf("running %v, before %v", now, before)
		}
		s := a.status(pod)
		if s.Phase != v1.PodRunning || s.EphemeralContainerStatuses[0].State.Terminated == nil {
			t.Errorf("got %v", s)
		}
	})
}

// No API server lets a pod change so, but the device does not have to believe in that.
func TestForbiddenChange(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.admit = forbidPrivileged
		a.restart()
		c, forbidden := box("main"), privilegedBox("main")
		c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check"}}}, PeriodSeconds: 1}
		forbidden.ReadinessProbe = c.ReadinessProbe
		pod := newPod("p", c)
		a.run(pod)
		pod.Spec.Containers = []v1.Container{forbidden}
		a.run(pod)
		if s := a.status(pod); len(a.runtime.running()) != 0 || a.runtime.count("CreateContainer main") != 1 || s.Reason != "ForbiddenByDevice" {
			t.Errorf("running %v, status %v", a.runtime.running(), s)
		}
		before := a.runtime.count("ExecSync")
		a.settle()
		if n := a.runtime.count("ExecSync") - before; before == 0 || n != 0 {
			t.Errorf("probed %d times after it was stopped, %d before", n, before)
		}
	})
}

// TestRoomOfARemovedPod sends a pod to a device that had room for one, which is on its way out: what the cluster does not
// know any more does not count, as it may have given the room to another already.
func TestRoomOfARemovedPod(t *testing.T) {
	for name, tt := range map[string]struct {
		remove func(a *agent, former *v1.Pod, stopped chan struct{})
		phase  v1.PodPhase // of the one that comes
	}{
		"deleted by force": {func(a *agent, former *v1.Pod, _ chan struct{}) { a.delete(former, 0) }, v1.PodRunning},
		"deleted by force in its grace period": {func(a *agent, former *v1.Pod, _ chan struct{}) {
			a.delete(former, 600)
			a.delete(former, 0)
		}, v1.PodRunning},
		"gone without a link": {func(a *agent, _ *v1.Pod, _ chan struct{}) { a.manager.Desired(&edgeapi.DesiredPods{}) }, v1.PodRunning},
		"gone without a link, the agent started again": {func(a *agent, _ *v1.Pod, _ chan struct{}) {
			a.manager.Desired(&edgeapi.DesiredPods{})
			a.restart()
		}, v1.PodRunning},
		"in its grace period": {func(a *agent, former *v1.Pod, _ chan struct{}) { a.delete(former, 600) }, v1.PodFailed},
		"stopped, but not removed": {func(a *agent, former *v1.Pod, stopped chan struct{}) {
			a.runtime.set(func() { a.runtime.removeErr = errors.New("busy") })
			a.delete(former, 600)
			close(stopped)
			a.settle()
		}, v1.PodRunning},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				a.stop()
				a.allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}
				a.start()
				pods := [2]*v1.Pod{}
				for i, name := range []string{"former", "next"} {
					pods[i] = newPod(name, box(name))
					pods[i].Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
					pods[i].Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("600m")}
				}
				a.run(pods[0])
				stopped := make(chan struct{})
				a.runtime.set(func() { a.runtime.stopBlock = stopped })
				tt.remove(a, pods[0], stopped)
				a.run(pods[1])
				if s := a.status(pods[1]); s.Phase != tt.phase || a.gone(pods[0]) {
					t.Errorf("got %v; want phase %s while something of the former pod is left: %t", s, tt.phase, !a.gone(pods[0]))
				}
			})
		})
	}
}

package containerd_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/test/framework/suite"
)

// TestConditions follows the conditions of a pod with an init container and a readiness gate until it is ready.
func TestConditions(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	pod := suite.Busybox(device, "exec sleep 1000")
	init := pod.Spec.Containers[0]
	// It ends when the container of another pod says so, by a directory of the device.
	init.Name, init.Command = "init", []string{"sh", "-c", "until [ -e /gate/open ]; do sleep 0.1; done"}
	init.VolumeMounts = []corev1.VolumeMount{{Name: "gate", MountPath: "/gate"}}
	pod.Spec.InitContainers = []corev1.Container{init}
	pod.Spec.Volumes = []corev1.Volume{{Name: "gate", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: t.TempDir()}}}}
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	pod = e.CreatePod(t, pod)
	is := func(want map[corev1.PodConditionType]string) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			have := 0
			for _, c := range p.Status.Conditions {
				if value := string(c.Status) + c.Reason; want[c.Type] == value && c.ObservedGeneration == p.Generation && !c.LastTransitionTime.IsZero() {
					have++
				}
			}
			return have == len(want) && p.Status.ObservedGeneration == p.Generation
		}
	}
	const yes = "True"
	e.WaitPod(t, pod, "initializing", is(map[corev1.PodConditionType]string{
		corev1.PodScheduled: yes, corev1.PodReadyToStartContainers: yes, corev1.PodInitialized: "FalseContainersNotInitialized",
		corev1.ContainersReady: "FalseContainersNotReady", corev1.PodReady: "FalseContainersNotReady",
	}))
	e.Kubectl(t, "-n", pod.Namespace, "exec", pod.Name, "-c", "init", "--", "touch", "/gate/open")
	e.WaitPod(t, pod, "waiting for the gate", is(map[corev1.PodConditionType]string{
		corev1.PodScheduled: yes, corev1.PodReadyToStartContainers: yes, corev1.PodInitialized: yes,
		corev1.ContainersReady: yes, corev1.PodReady: "FalseReadinessGatesNotReady",
	}))
	e.Kubectl(t, "-n", pod.Namespace, "patch", "pod", pod.Name, "--subresource=status", "--type=strategic",
		`-p={"status":{"conditions":[{"type":"example.com/gate","status":"True"}]}}`)
	e.WaitPodReady(t, pod)
	e.Kubectl(t, "-n", pod.Namespace, "patch", "pod", pod.Name, "--subresource=status", "--type=strategic",
		`-p={"status":{"conditions":[{"type":"example.com/gate","status":"False"}]}}`)
	e.WaitPod(t, pod, "behind the gate again", is(map[corev1.PodConditionType]string{corev1.ContainersReady: yes, corev1.PodReady: "FalseReadinessGatesNotReady"}))
	// The pod changes, and its status tells that the device knows.
	before := pod.Generation
	e.Kubectl(t, "-n", pod.Namespace, "patch", "pod", pod.Name, `-p={"spec":{"activeDeadlineSeconds":1000}}`)
	e.WaitPod(t, pod, "of another generation", func(p *corev1.Pod) bool {
		return p.Generation > before && is(map[corev1.PodConditionType]string{corev1.PodInitialized: yes, corev1.ContainersReady: yes})(p)
	})
}

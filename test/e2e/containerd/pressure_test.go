package containerd_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/test/framework/suite"
)

// TestRefusedPods binds pods to a device past the scheduler.
func TestRefusedPods(t *testing.T) {
	e := suite.Get(t)
	for _, tc := range []struct {
		change          func(*corev1.Pod)
		reason, message string
	}{
		{func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000")}
		}, "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: "},
		{func(p *corev1.Pod) { p.Spec.NodeSelector["example.com/zone"] = "none" },
			"NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
	} {
		pod := suite.Busybox(device, "exec sleep 1000")
		pod.Spec.NodeName = device
		tc.change(pod)
		waitRefused(t, e, pod, tc.reason, tc.message)
	}
}

// TestNodePressure lets a device find that it has too little memory and too few processes: its Node says so, the
// stock controller-manager puts the taints on it, and pods go. TestContainerdFullDisk has the disk fill.
func TestNodePressure(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	const name = "device-2"
	pod := e.RunPod(t, suite.Busybox(name, "exec sleep 1000"))
	restore := reconfigure(t, e, name, "evictionHard: {memory.available: 99%, pid.available: \"1000000000\"}\n")
	evicted := e.WaitPod(t, pod, "evicted", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if evicted.Status.Reason != "Evicted" || !strings.HasPrefix(evicted.Status.Message, "The node was low on resource: memory. Threshold quantity: ") {
		t.Errorf("got %s, %q", evicted.Status.Reason, evicted.Status.Message)
	}
	if !slices.ContainsFunc(evicted.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonTerminationByKubelet
	}) {
		t.Errorf("conditions %v", evicted.Status.Conditions)
	}
	pressure := func(want corev1.ConditionStatus, tainted bool) func(context.Context) error {
		return func(ctx context.Context) error {
			n, err := e.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for condition, key := range map[corev1.NodeConditionType]string{
				corev1.NodeMemoryPressure: corev1.TaintNodeMemoryPressure, corev1.NodePIDPressure: corev1.TaintNodePIDPressure,
			} {
				hasCondition := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == condition && c.Status == want })
				hasTaint := slices.ContainsFunc(n.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == key })
				if !hasCondition || hasTaint != tainted {
					return fmt.Errorf("%s: conditions %v, taints %v", condition, n.Status.Conditions, n.Spec.Taints)
				}
			}
			return nil
		}
	}
	suite.Eventually(t, suite.PodTimeout, "the Node tells of the pressure", pressure(corev1.ConditionTrue, true))
	restore()
	suite.Eventually(t, suite.PodTimeout, "the pressure is over", pressure(corev1.ConditionFalse, false))
	e.RunPod(t, suite.Busybox(name, "exec sleep 1000"))
}

// TestForbiddenByDevice has a device whose owner permits less than the cluster wants.
func TestForbiddenByDevice(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	const name = "device-2"
	rewrite(t, e, name, func(plain []byte) []byte {
		return regexp.MustCompile(`(privilegedPods|hostNetwork): true`).ReplaceAll(plain, []byte("$1: false"))
	})
	for message, change := range map[string]func(*corev1.PodSpec){
		`the device's own policy forbids privileged containers ("main") (policy.privilegedPods in its arhat.yaml)`: func(s *corev1.PodSpec) {
			s.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		},
		`the device's own policy forbids pods in the device's network (hostNetwork) (policy.hostNetwork in its arhat.yaml)`: func(s *corev1.PodSpec) {
			s.HostNetwork = true
		},
	} {
		pod := suite.Busybox(name, "exec sleep 1000")
		change(&pod.Spec)
		waitRefused(t, e, pod, "ForbiddenByDevice", "Pod was rejected: "+message)
	}
}

// waitRefused creates a pod and waits until its status and an event say why a device does not run it.
func waitRefused(t *testing.T, e *suite.Env, pod *corev1.Pod, reason, message string) {
	t.Helper()
	failed := e.WaitPod(t, e.CreatePod(t, pod), "refused", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if failed.Status.Reason != reason || !strings.HasPrefix(failed.Status.Message, message) {
		t.Errorf("got %s, %q, want %s, %q", failed.Status.Reason, failed.Status.Message, reason, message)
	}
	suite.Eventually(t, suite.PodTimeout, "an event tells why", func(ctx context.Context) error {
		events, err := e.Kube.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=" + reason + ",involvedObject.uid=" + string(failed.UID)})
		if err != nil {
			return err
		}
		if len(events.Items) == 0 || !strings.HasPrefix("Pod was rejected: "+events.Items[0].Message, message) {
			return fmt.Errorf("got events %v", events.Items)
		}
		return nil
	})
}

package containerd_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/test/framework/suite"
)

// What happens while a device is away is told when it is back: once for each pod, with the times at which
// it happened. What runs well is left alone; what was deleted meanwhile goes.
func TestReconnect(t *testing.T) {
	e := suite.Get(t)
	if e.Cluster.State().Link != local.LinkGRPC {
		t.Skip("the link is cut: it makes no difference which it is")
	}
	e.Kubectl(t, "patch", "ed", "-n", suite.Namespace, device, "--type=merge", "-p", `{"spec":{"connectivity":{"heartbeatInterval":"5s"}}}`)
	defer e.Kubectl(t, "patch", "ed", "-n", suite.Namespace, device, "--type=merge", "-p", `{"spec":{"connectivity":{"heartbeatInterval":null}}}`)
	healthy := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
	deleted := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
	ends := suite.Busybox(device, "while :; do sleep 1; done")
	ends.Spec.RestartPolicy = corev1.RestartPolicyNever
	ends = e.RunPod(t, ends)
	restarts := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))

	if err := e.Cluster.Unplug(device); err != nil {
		t.Fatal(err)
	}
	plugged := false
	t.Cleanup(func() {
		if !plugged {
			_ = e.Cluster.PlugIn(device)
		}
	})
	began := time.Now().Truncate(time.Second)
	cri := e.CRI(t, device)
	stop := func(pod *corev1.Pod, id string) {
		t.Helper()
		if err := cri.StopContainer(t.Context(), strings.TrimPrefix(id, "containerd://"), 0); err != nil {
			t.Fatalf("pod %s: %v", pod.Name, err)
		}
	}
	stop(ends, ends.Status.ContainerStatuses[0].ContainerID)
	stop(restarts, restarts.Status.ContainerStatuses[0].ContainerID)
	if err := e.Kube.CoreV1().Pods("edge").Delete(t.Context(), deleted.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, suite.PodTimeout, "the container is restarted without the cloud", func(context.Context) error {
		for _, c := range suite.Containers(t, cri, string(restarts.UID)) {
			if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING && c.Metadata.Attempt == 1 {
				return nil
			}
		}
		return fmt.Errorf("containers %v", suite.Containers(t, cri, string(restarts.UID)))
	})
	// A link that outlives the loss delivers what was sent meanwhile, in order. This one is given up, which takes
	// 10 s at least: the times of what happened can be told from those at which it is told.
	suite.Eventually(t, suite.PodTimeout, "the loss of the link is noticed", func(ctx context.Context) error {
		ed, err := e.Device(ctx, device)
		if err == nil && ed.Status.Phase != v1alpha1.EdgeDeviceOffline {
			err = fmt.Errorf("the device is %s", ed.Status.Phase)
		}
		return err
	})
	ended := time.Now()
	changes := watchPod(t, e, restarts)
	if err := e.Cluster.PlugIn(device); err != nil {
		t.Fatal(err)
	}
	plugged = true

	within := func(what string, at metav1.Time) {
		t.Helper()
		if at.Time.Before(began) || at.After(ended.Add(-2*time.Second)) {
			t.Errorf("%s: at %s, but it happened between %s and %s", what, at, began, ended.Add(-2*time.Second))
		}
	}
	done := e.WaitPod(t, ends, "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	within("the end of the pod", done.Status.ContainerStatuses[0].State.Terminated.FinishedAt)
	now := e.WaitPod(t, restarts, "restarted", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses[0]
		return s.RestartCount == 1 && s.State.Running != nil && s.Ready
	})
	within("the end of the container", now.Status.ContainerStatuses[0].LastTerminationState.Terminated.FinishedAt)
	within("the restart of the container", now.Status.ContainerStatuses[0].State.Running.StartedAt)
	for _, c := range now.Status.Conditions {
		if c.Type == corev1.PodReady {
			within("the condition Ready", c.LastTransitionTime)
		}
	}
	e.WaitPodGone(t, deleted)
	if left := suite.Sandboxes(t, cri, string(deleted.UID)); len(left) != 0 {
		t.Errorf("of the pod that was deleted meanwhile there is %v", left)
	}
	same, err := e.Kube.CoreV1().Pods("edge").Get(t.Context(), healthy.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if before, after := healthy.Status.ContainerStatuses[0], same.Status.ContainerStatuses[0]; after.ContainerID != before.ContainerID || after.RestartCount != 0 {
		t.Errorf("the healthy pod: %+v before, %+v after", before, after)
	}
	// It ended, started, became ready: three states at least, of which the cluster has seen the last.
	if seen := changes(now); len(seen) != 1 {
		t.Errorf("the status of the pod that was restarted was written %d times, want once:\n%s", len(seen), strings.Join(seen, "\n"))
	}
}

// watchPod tells the statuses that a pod gets from now on, up to the state that the function is given.
func watchPod(t *testing.T, e *suite.Env, pod *corev1.Pod) (changes func(last *corev1.Pod) []string) {
	t.Helper()
	p, err := e.Kube.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := e.Kube.CoreV1().Pods(pod.Namespace).Watch(t.Context(), metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String(), ResourceVersion: p.ResourceVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return func(last *corev1.Pod) (statuses []string) {
		for deadline := time.After(suite.PodTimeout); ; {
			select {
			case event := <-w.ResultChan():
				seen, ok := event.Object.(*corev1.Pod)
				if !ok {
					t.Fatalf("the watch of the pod: %s: %v", event.Type, event.Object)
				}
				statuses = append(statuses, seen.Status.String())
				if seen.ResourceVersion == last.ResourceVersion {
					return statuses
				}
			case <-deadline:
				t.Fatalf("the watch does not show the pod's last state")
			}
		}
	}
}

package containerd_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/cluster/supervisor"
	"arhat.dev/aranya/test/framework/suite"
)

// Whatever dies, the containers keep running, and all is consistent again without help.
func TestCrash(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	for _, test := range []struct {
		service string
		group   *supervisor.Client
	}{
		{local.ServiceAranya, e.Cluster.Cloud()},
		{local.ServiceArhat, e.Cluster.Device(device)},
		{local.ServiceContainerd, e.Cluster.Device(device)},
	} {
		t.Run(test.service, func(t *testing.T) {
			pod := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
			before := pod.Status.ContainerStatuses[0]
			cri := e.CRI(t, device)
			sandbox := suite.Sandboxes(t, cri, string(pod.UID))[0].Id
			kill(t, test.group, test.service)

			// A pod that is made meanwhile starts, and one can be reached.
			second := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
			suite.Eventually(t, suite.PodTimeout, "exec works again", func(context.Context) error {
				if r := e.TryKubectl(t, "", "-n", "edge", "exec", pod.Name, "--", "echo", "here"); r.Stdout != "here\n" {
					return fmt.Errorf("%+v", r)
				}
				return nil
			})
			now, err := e.Kube.CoreV1().Pods("edge").Get(t.Context(), pod.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			after := now.Status.ContainerStatuses[0]
			if now.UID != pod.UID || after.ContainerID != before.ContainerID || after.RestartCount != before.RestartCount {
				t.Errorf("before: %+v\nafter: %+v", before, after)
			}
			cri = e.CRI(t, device)
			sandboxes, containers := suite.Sandboxes(t, cri, string(pod.UID)), suite.Containers(t, cri, string(pod.UID))
			if len(sandboxes) != 1 || sandboxes[0].Id != sandbox || len(containers) != 1 {
				t.Errorf("sandboxes %v, containers %v", sandboxes, containers)
			}
			// Deleting works, too, and confirms that the device is gone through with it.
			e.Kubectl(t, "-n", "edge", "delete", "pod", pod.Name, second.Name)
			e.WaitPodGone(t, pod)
			if len(suite.Sandboxes(t, cri, string(pod.UID))) != 0 {
				t.Error("the sandbox is left behind")
			}
			suite.Eventually(t, suite.PodTimeout, "the node is ready", func(ctx context.Context) error {
				return nodeIs(ctx, e, device, corev1.ConditionTrue)
			})
		})
	}
}

// kill ends a service as a crash would, and waits until its supervisor has started it again.
func kill(t *testing.T, group *supervisor.Client, service string) {
	t.Helper()
	before, err := group.Status(t.Context(), service)
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Signal(t.Context(), service, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, 30*time.Second, service+" is started again", func(ctx context.Context) error {
		after, err := group.Status(ctx, service)
		if err == nil && (after.PID == 0 || after.Restarts == before.Restarts) {
			err = fmt.Errorf("%+v", after)
		}
		return err
	})
}

func nodeIs(ctx context.Context, e *suite.Env, name string, want corev1.ConditionStatus) error {
	node, err := e.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == want {
				return nil
			}
			return fmt.Errorf("node %s is Ready=%s: %s", name, c.Status, c.Message)
		}
	}
	return fmt.Errorf("node %s has no condition Ready", name)
}

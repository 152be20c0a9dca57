package suite

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// PodTimeout bounds how long a pod may take to start or to go on a machine that is busy.
const PodTimeout = 90 * time.Second

// Toleration is what lets pods onto devices.
var Toleration = corev1.Toleration{Key: v1alpha1.TaintNamespace, Operator: corev1.TolerationOpEqual, Value: Namespace}

// Pod returns a pod for a device, with one container "main".
func Pod(device, image string, command ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name("pod")},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{v1alpha1.LabelName: device},
			Tolerations:                   []corev1.Toleration{Toleration},
			AutomountServiceAccountToken:  ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To[int64](1),
			Containers: []corev1.Container{{
				Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
			}},
		},
	}
}

// Busybox returns a pod on a device that runs a shell script in the busybox image.
func Busybox(device, script string) *corev1.Pod {
	return Pod(device, BusyboxImage, "sh", "-c", script)
}

// CreatePod creates a pod, and deletes it when the test ends.
func (e *Env) CreatePod(t testing.TB, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	created, err := e.Kube.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), PodTimeout)
		defer cancel()
		if t.Failed() {
			e.report(ctx, t, created)
		}
		err := e.Kube.CoreV1().Pods(created.Namespace).Delete(ctx, created.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("clean up: %v", err)
		}
	})
	return created
}

// report shows what is known of a pod when its test has failed.
func (e *Env) report(ctx context.Context, t testing.TB, pod *corev1.Pod) {
	out, _ := e.Cluster.Kubectl(ctx, "-n", pod.Namespace, "describe", "pod", pod.Name).CombinedOutput()
	t.Logf("%s", out)
}

// RunPod creates a pod and waits until it is ready.
func (e *Env) RunPod(t testing.TB, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	return e.WaitPodReady(t, e.CreatePod(t, pod))
}

// WaitPodReady waits until a pod is ready and returns its present state.
func (e *Env) WaitPodReady(t testing.TB, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	return e.WaitPod(t, pod, "ready", func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	})
}

// WaitPod waits until a pod is as wanted and returns its present state.
func (e *Env) WaitPod(t testing.TB, pod *corev1.Pod, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var last *corev1.Pod
	Eventually(t, PodTimeout, fmt.Sprintf("pod %s %s", pod.Name, what), func(ctx context.Context) error {
		p, err := e.Kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if last = p; !wanted(p) {
			return fmt.Errorf("phase %s, containers %+v", p.Status.Phase, p.Status.ContainerStatuses)
		}
		return nil
	})
	return last
}

// WaitPodGone waits until a pod is no more.
func (e *Env) WaitPodGone(t testing.TB, pod *corev1.Pod) {
	t.Helper()
	Eventually(t, PodTimeout, "pod "+pod.Name+" gone", func(ctx context.Context) error {
		p, err := e.Kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && p.UID != pod.UID {
			return nil
		} else if err != nil {
			return err
		}
		return fmt.Errorf("it is %s, deletion asked for at %s", p.Status.Phase, p.DeletionTimestamp)
	})
}

package containerd_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

// TestPodsOfADeviceThatIsAwayAreKept has the stock controller-manager evict, from a device that is away, the pod that
// asks for it. With the sample policy the one beside it has no limit, and is there as it was when the device is back.
func TestPodsOfADeviceThatIsAwayAreKept(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	const name = "device-2"
	policy := filepath.Join(e.Cluster.State().Source, "artifacts", "samples", "keep-pods-policy.yaml")
	e.Kubectl(t, "apply", "-f", policy)
	t.Cleanup(func() { _ = e.Cluster.Kubectl(context.Background(), "delete", "-f", policy, "--wait=false").Run() })
	limited := func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool {
			return t.Key == corev1.TaintNodeUnreachable && t.TolerationSeconds != nil
		})
	}
	suite.Eventually(t, suite.PodTimeout, "the policy is in force", func(ctx context.Context) error {
		p, err := e.Kube.CoreV1().Pods(suite.Namespace).Create(ctx, suite.Busybox(name, "true"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && limited(p) {
			err = fmt.Errorf("tolerations %v", p.Spec.Tolerations)
		}
		return err
	})
	kept, leaving := suite.Busybox(name, "while :; do sleep 1; done"), suite.Busybox(name, "while :; do sleep 1; done")
	leaving.Spec.Tolerations = append(leaving.Spec.Tolerations, corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists,
		Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1)})
	kept, leaving = e.RunPod(t, kept), e.RunPod(t, leaving)

	agent := e.Cluster.Device(name)
	if err := agent.Stop(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	resume := func() {
		if err := errors.Join(agent.Resume(context.Background(), local.ServiceArhat), e.Cluster.WaitOnline(context.Background(), name)); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		if s, err := agent.Status(context.Background(), local.ServiceArhat); err == nil && s.PID == 0 {
			resume()
		}
	})
	e.WaitPod(t, leaving, "evicted", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	now, err := e.Kube.CoreV1().Pods(kept.Namespace).Get(t.Context(), kept.Name, metav1.GetOptions{})
	if err != nil || now.DeletionTimestamp != nil || limited(now) {
		t.Errorf("the pod that is to be kept: %v, deleted at %v, tolerations %v", err, now.DeletionTimestamp, now.Spec.Tolerations)
	}
	resume()
	e.WaitPodGone(t, leaving)
	sameContainer(t, e, kept)
}

// sameContainer checks that a pod runs with the container that it had, and is ready.
func sameContainer(t *testing.T, e *suite.Env, before *corev1.Pod) {
	t.Helper()
	now := e.WaitPodReady(t, before)
	if b, n := before.Status.ContainerStatuses[0], now.Status.ContainerStatuses[0]; now.UID != before.UID || b.ContainerID != n.ContainerID || n.RestartCount != 0 {
		t.Errorf("pod %s: %+v before, %+v now", before.Name, b, n)
	}
}

// TestPodsOutliveTheCertificate has a device be away for so long that its certificate has expired: it comes back by
// itself, and its pod has not noticed.
func TestPodsOutliveTheCertificate(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	const name = "device-2"
	pod := e.RunPod(t, suite.Busybox(name, "while :; do sleep 1; done"))
	deleted := e.RunPod(t, suite.Busybox(name, "while :; do sleep 1; done"))
	agent := e.Cluster.Device(name)
	if err := agent.Stop(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(e.Cluster.Dir, "devices", name, "state", "identity", "cert.pem")
	expired := e.Expire(t, suite.ReadCertificate(t, path))
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: expired.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Kube.CoreV1().Pods(deleted.Namespace).Delete(t.Context(), deleted.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if err := agent.Resume(t.Context(), local.ServiceArhat); err != nil {
		t.Fatal(err)
	}
	if err := e.Cluster.WaitOnline(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	var cert *x509.Certificate
	suite.Eventually(t, suite.PodTimeout, "another certificate", func(context.Context) error {
		if cert = suite.ReadCertificate(t, path); time.Until(cert.NotAfter) < 24*time.Hour {
			return fmt.Errorf("it is good until %s", cert.NotAfter)
		}
		return nil
	})
	e.WaitPodGone(t, deleted)
	sameContainer(t, e, pod)
}

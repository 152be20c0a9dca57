package containerd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/test/framework/suite"
)

// TestClusterTrustBundles has a pod trust what the cluster says, while that changes.
func TestClusterTrustBundles(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	client := e.Kube.CertificatesV1().ClusterTrustBundles()
	first, second := trustAnchor(t), trustAnchor(t)
	bundle, err := client.Create(t.Context(), &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: suite.Name("bundle")}, Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: first},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Delete(context.Background(), bundle.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	pod := suite.Busybox(device, "exec sleep 1000")
	pod.Spec.Volumes = []corev1.Volume{{Name: "trust", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: &bundle.Name, Path: "ca.pem"}}},
	}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "trust", MountPath: "/trust"}}
	pod = e.RunPod(t, pod)
	holds := func(want string) func(context.Context) error {
		return func(context.Context) error {
			if got := e.Kubectl(t, "-n", pod.Namespace, "exec", pod.Name, "--", "cat", "/trust/ca.pem"); strings.TrimSpace(got) != strings.TrimSpace(want) {
				return fmt.Errorf("got %s", got)
			}
			return nil
		}
	}
	suite.Eventually(t, time.Second, "the bundle is there", holds(first))
	bundle.Spec.TrustBundle = second
	if _, err := client.Update(t.Context(), bundle, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, suite.PodTimeout, "the changed bundle is there", holds(second))
}

// trustAnchor is the certificate of a CA.
func trustAnchor(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: suite.Name("ca")}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	data, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: data}))
}

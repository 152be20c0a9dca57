package bundles

import (
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/controller/pod/resolve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func anchor(text string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(text)}))
}

func bundle(name, signer, app string, anchors ...string) *certificatesv1.ClusterTrustBundle {
	b := &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer},
	}
	for _, a := range anchors {
		b.Spec.TrustBundle += "a comment\n" + anchor(a)
	}
	return b
}

// newManager returns a Manager, and what receives its calls of changed.
func newManager(t *testing.T, client *fake.Clientset) (*Manager, chan struct{}) {
	changed := make(chan struct{}, 1)
	m := New(t.Context(), client, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	t.Cleanup(m.Close)
	return m, changed
}

// settle asks until the answer is known.
func settle(t *testing.T, m *Manager, changed chan struct{}, source *corev1.ClusterTrustBundleProjection) (string, error) {
	t.Helper()
	for {
		anchors, err := m.Anchors(source)
		if !errors.Is(err, resolve.ErrPending) {
			return string(anchors), err
		}
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatal("still pending")
		}
	}
}

func TestAnchors(t *testing.T) {
	client := fake.NewClientset(
		bundle("plain", "", "", "b", "a", "b"), bundle("s:one", "example.com/s", "web", "c"), bundle("s:two", "example.com/s", "db", "d", "c"), bundle("t:one", "example.com/t", "web", "e"),
	)
	m, changed := newManager(t, client)
	if len(client.Actions()) > 0 {
		t.Error("bundles are watched that nobody has asked for")
	}
	signer := func(name string, labels map[string]string, optional *bool) *corev1.ClusterTrustBundleProjection {
		return &corev1.ClusterTrustBundleProjection{SignerName: &name, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}, Optional: optional}
	}
	for name, tc := range map[string]struct {
		source  *corev1.ClusterTrustBundleProjection
		want    string
		wantErr string
	}{
		"by name":              {&corev1.ClusterTrustBundleProjection{Name: ptr.To("plain")}, anchor("a") + anchor("b"), ""},
		"no such name":         {&corev1.ClusterTrustBundleProjection{Name: ptr.To("none")}, "", `while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io "none" not found`},
		"optional":             {&corev1.ClusterTrustBundleProjection{Name: ptr.To("none"), Optional: ptr.To(true)}, "", ""},
		"all of a signer":      {signer("example.com/s", nil, nil), anchor("c") + anchor("d"), ""},
		"some of a signer":     {signer("example.com/s", map[string]string{"app": "web"}, nil), anchor("c"), ""},
		"none of a signer":     {signer("example.com/s", map[string]string{"app": "x"}, nil), "", "combination of signerName and labelSelector matched zero ClusterTrustBundles"},
		"none, optional":       {signer("example.com/s", map[string]string{"app": "x"}, ptr.To(true)), "", ""},
		"without a selector":   {&corev1.ClusterTrustBundleProjection{SignerName: ptr.To("example.com/s")}, "", "matched zero ClusterTrustBundles"},
		"neither of the names": {&corev1.ClusterTrustBundleProjection{}, "", "requires either name or signerName to be set"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := settle(t, m, changed, tc.source)
			if got != tc.want || (err == nil) != (tc.wantErr == "") || (err != nil && !strings.Contains(err.Error(), tc.wantErr)) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	t.Run("a change", func(t *testing.T) {
		if _, err := client.CertificatesV1().ClusterTrustBundles().Update(t.Context(), bundle("plain", "", "", "z"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case <-changed:
			case <-time.After(time.Minute):
				t.Fatal("nothing was told")
			}
			if got, err := m.Anchors(&corev1.ClusterTrustBundleProjection{Name: ptr.To("plain")}); err == nil && string(got) == anchor("z") {
				return
			}
		}
	})
}

// TestNotServed has a cluster that does not know the API.
func TestNotServed(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("list", "clustertrustbundles", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundles"), "")
	})
	m, changed := newManager(t, client)
	if _, err := settle(t, m, changed, &corev1.ClusterTrustBundleProjection{Name: ptr.To("x")}); err == nil || !strings.Contains(err.Error(), "the cluster does not serve ClusterTrustBundles") {
		t.Errorf("got %v", err)
	}
}

package containerd_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/test/framework/containerd"
	"arhat.dev/aranya/test/framework/registry"
	"arhat.dev/aranya/test/framework/suite"
)

const (
	registryUser     = "somebody"
	registryPassword = "the-password"
)

// TestPullSecrets pulls images from a registry that demands a password, with the secrets of pods and of
// service accounts.
func TestPullSecrets(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	r := startRegistry(t, e)
	right, wrong := pullSecret(t, e, r.Host(), registryPassword), pullSecret(t, e, r.Host(), "not-"+registryPassword)
	account := serviceAccount(t, e, right)

	private := func(policy corev1.PullPolicy, secrets ...string) *corev1.Pod {
		pod := suite.Pod(device, r.Host()+"/private:1", "sleep", "1000")
		pod.Spec.Containers[0].ImagePullPolicy = policy
		for _, name := range secrets {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
		}
		return pod
	}
	waits := func(pod *corev1.Pod, reason, message string) {
		t.Helper()
		pod = e.WaitPod(t, e.CreatePod(t, pod), reason, func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == reason
		})
		if got := pod.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(got, message) || strings.Contains(got, registryPassword) {
			t.Errorf("%s: got message %q, want %q", pod.Name, got, message)
		}
	}
	backOff := fmt.Sprintf("Back-off pulling image %q: ErrImagePull: ", r.Host()+"/private:1")
	never := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Host()+"/private:1")

	// The image is not on the device yet.
	refused := private(corev1.PullIfNotPresent, wrong)
	waits(refused, "ImagePullBackOff", backOff)
	waits(private(corev1.PullIfNotPresent), "ImagePullBackOff", backOff)
	waits(private(corev1.PullNever, right), "ErrImageNeverPull", never)
	out := e.Kubectl(t, "-n", suite.Namespace, "describe", "pod", refused.Name)
	for _, want := range []string{"Failed to pull image", "401 Unauthorized", "Error: ErrImagePull", "Error: ImagePullBackOff"} {
		if !strings.Contains(out, want) {
			t.Errorf("the events do not tell %q: %s", want, out)
		}
	}
	if n := r.Pulls("private"); n > 0 {
		t.Fatalf("the registry gave the image %d times without its password", n)
	}

	e.RunPod(t, private(corev1.PullIfNotPresent, wrong, right)) // all that fit are tried
	ofAccount := private(corev1.PullAlways)
	ofAccount.Spec.ServiceAccountName = account
	pulls := r.Pulls("private")
	e.RunPod(t, ofAccount)
	if r.Pulls("private") == pulls {
		t.Error("policy Always did not ask the registry")
	}

	// Now it is there, for whoever has the password.
	pulls = r.Pulls("private")
	e.RunPod(t, private(corev1.PullNever, right))
	e.RunPod(t, private(corev1.PullIfNotPresent, right))
	if got := r.Pulls("private"); got != pulls {
		t.Errorf("the registry was asked %d times for an image that is there", got-pulls)
	}
	waits(private(corev1.PullAlways, wrong), "ImagePullBackOff", backOff)
	waits(private(corev1.PullIfNotPresent), "ImagePullBackOff", backOff)
	waits(private(corev1.PullNever), "ErrImageNeverPull", never)
}

// startRegistry serves a private image on the device's loopback.
func startRegistry(t *testing.T, e *suite.Env) *registry.Registry {
	t.Helper()
	listener, err := e.Cluster.Listen(device, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := registry.Start(t, listener, registryUser, registryPassword)
	if err := r.Trust(e.Cluster.ContainerdDir(device)); err != nil {
		t.Fatal(err)
	}
	image, err := containerd.Busybox(r.Host() + "/private:1")
	if err != nil {
		t.Fatal(err)
	}
	image.Env = append(image.Env, "PRIVATE=1") // or it were the image that devices have
	if err := r.Push("private:1", image); err != nil {
		t.Fatal(err)
	}
	return r
}

// pullSecret makes a Secret as "kubectl create secret docker-registry" does.
func pullSecret(t *testing.T, e *suite.Env, host, password string) string {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + password))
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: suite.Name("pull"), Namespace: suite.Namespace}, Type: corev1.SecretTypeDockerConfigJson,
		StringData: map[string]string{corev1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)},
	}
	if _, err := e.Kube.CoreV1().Secrets(suite.Namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Kube.CoreV1().Secrets(suite.Namespace).Delete(context.Background(), secret.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return secret.Name
}

// serviceAccount makes one with a pull secret.
func serviceAccount(t *testing.T, e *suite.Env, secret string) string {
	t.Helper()
	account := &corev1.ServiceAccount{
		ObjectMeta:       metav1.ObjectMeta{Name: suite.Name("puller"), Namespace: suite.Namespace},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: secret}},
	}
	if _, err := e.Kube.CoreV1().ServiceAccounts(suite.Namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Kube.CoreV1().ServiceAccounts(suite.Namespace).Delete(context.Background(), account.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return account.Name
}

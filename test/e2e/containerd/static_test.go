package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/test/framework/suite"
)

const staticManifest = `apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  labels: {app: %[1]s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: ` + suite.BusyboxImage + `
    command: [sh, -c, "echo %[2]s; while :; do sleep 1; done"]
`

// manifests writes files into the folder of static pods of a device, and removes them with the test.
func manifests(t *testing.T, e *suite.Env, files map[string]string) {
	t.Helper()
	dir := filepath.Join(e.Cluster.Dir, "devices", device, "manifests")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
	}
}

// mirrorPod waits until a static pod is shown as running, and is not the one before.
func mirrorPod(t *testing.T, e *suite.Env, name string, before *corev1.Pod) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	suite.Eventually(t, suite.PodTimeout, "mirror pod "+name, func(ctx context.Context) error {
		p, err := e.Kube.CoreV1().Pods("edge").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodRunning || (before != nil && p.UID == before.UID) {
			return fmt.Errorf("UID %s, phase %s", p.UID, p.Status.Phase)
		}
		pod = p
		return nil
	})
	return pod
}

// A manifest in the device's folder is a pod: it runs, is shown in the cluster and can be reached as any
// other, but ends only when its file goes. A bad file next to it is told of and changes nothing.
func TestStaticPods(t *testing.T) {
	e := suite.Get(t)
	name := suite.Name("static")
	manifests(t, e, map[string]string{
		name + ".yaml": fmt.Sprintf(staticManifest, name, "first"), name + "-bad.yaml": "kind: Pod\nspec: [",
		name + "-secret.yaml": fmt.Sprintf(staticManifest, name+"-secret", "x") + "  volumes: [{name: v, secret: {secretName: s}}]\n",
		name + "-other.yaml":  strings.Replace(fmt.Sprintf(staticManifest, name+"-other", "x"), "metadata:", "metadata:\n  namespace: kube-system", 1),
	})
	shown := name + "-" + device
	first := mirrorPod(t, e, shown, nil)
	if a := first.Annotations; a["kubernetes.io/config.source"] != "file" || a["kubernetes.io/config.mirror"] == "" || a["kubernetes.io/config.hash"] != a["kubernetes.io/config.mirror"] || a["kubernetes.io/config.seen"] == "" {
		t.Errorf("annotations %v", a)
	}
	if owner := metav1.GetControllerOf(first); owner == nil || owner.Kind != "Node" || owner.Name != device {
		t.Errorf("owner %v", owner)
	}
	if got := e.Kubectl(t, "-n", "edge", "logs", shown); got != "first\n" {
		t.Errorf("log %q", got)
	}
	if got := e.Kubectl(t, "-n", "edge", "exec", shown, "--", "echo", "inside"); got != "inside\n" {
		t.Errorf("exec %q", got)
	}
	suite.Eventually(t, 30*time.Second, "events about the bad files", func(context.Context) error {
		out := e.Kubectl(t, "-n", "edge", "get", "events", "--field-selector", "reason=InvalidStaticPod,involvedObject.kind=EdgeDevice", "-o", "jsonpath={.items[*].message}")
		for _, want := range []string{name + "-bad.yaml: it is neither YAML nor JSON", name + "-secret.yaml: static pods may not refer to secrets", name + `-other.yaml: the namespace "kube-system" is not the device's`} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("no %q in %q", want, out)
			}
		}
		return nil
	})

	// Deleting the mirror pod makes another of it, and does nothing to the container.
	container := first.Status.ContainerStatuses[0].ContainerID
	e.Kubectl(t, "-n", "edge", "delete", "pod", shown)
	again := mirrorPod(t, e, shown, first)
	if got := again.Status.ContainerStatuses[0]; got.ContainerID != container || got.RestartCount != 0 {
		t.Errorf("container %s before, %+v after the mirror pod was deleted", container, got)
	}

	// Another content is another pod; none is none.
	manifests(t, e, map[string]string{name + ".yaml": fmt.Sprintf(staticManifest, name, "second")})
	mirrorPod(t, e, shown, again)
	suite.Eventually(t, 30*time.Second, "the new content", func(context.Context) error {
		if got := e.TryKubectl(t, "", "-n", "edge", "logs", shown); got.Stdout != "second\n" {
			return fmt.Errorf("log %+v", got)
		}
		return nil
	})
	if err := os.Remove(filepath.Join(e.Cluster.Dir, "devices", device, "manifests", name+".yaml")); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, suite.PodTimeout, "the mirror pod goes with the file", func(ctx context.Context) error {
		_, err := e.Kube.CoreV1().Pods("edge").Get(ctx, shown, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = errors.New("it is still there")
		}
		return err
	})
}

// Without a link static pods start, survive a reboot, and go with their files; the cluster learns of it later.
func TestStaticPodsWithoutTheCloud(t *testing.T) {
	e := suite.Get(t)
	if e.Cluster.State().Link != local.LinkGRPC {
		t.Skip("the link is cut: it makes no difference which it is")
	}
	name := suite.Name("static")
	if err := e.Cluster.Unplug(device); err != nil {
		t.Fatal(err)
	}
	plugged := false
	t.Cleanup(func() {
		if !plugged {
			_ = e.Cluster.PlugIn(device)
		}
	})
	runs := func() error {
		socket, err := net.Dial("unix", filepath.Join(e.Cluster.Dir, "devices", device, "containerd.sock"))
		if err != nil {
			return err
		}
		_ = socket.Close()
		list, err := e.CRI(t, device).ListContainers(t.Context(), nil)
		if err != nil {
			return err
		}
		for _, c := range list {
			if c.Labels["io.kubernetes.pod.name"] == name+"-"+device && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
				return nil
			}
		}
		return fmt.Errorf("no container of it runs")
	}
	manifests(t, e, map[string]string{name + ".json": `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "` + name + `"}, "spec": {"terminationGracePeriodSeconds": 1,
		"containers": [{"name": "main", "image": "` + suite.BusyboxImage + `", "command": ["sh", "-c", "while :; do sleep 1; done"]}]}}`})
	suite.Eventually(t, suite.PodTimeout, "it runs", func(context.Context) error { return runs() })
	if err := e.Cluster.PowerOff(t.Context(), device); err != nil {
		t.Fatal(err)
	}
	if err := e.Cluster.Boot(t.Context(), device); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, suite.PodTimeout, "it runs after the reboot", func(context.Context) error { return runs() })
	if err := e.Cluster.PlugIn(device); err != nil {
		t.Fatal(err)
	}
	plugged = true
	shown := mirrorPod(t, e, name+"-"+device, nil)
	if shown.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("%+v", shown.Status.ContainerStatuses[0])
	}
	if err := e.Cluster.WaitOnline(t.Context(), device); err != nil {
		t.Fatal(err)
	}
}

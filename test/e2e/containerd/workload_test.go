package containerd_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"arhat.dev/aranya/test/framework/suite"
)

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  namespace: edge
  name: sample
spec:
  replicas: 2
  selector:
    matchLabels: {app: sample}
  template:
    metadata:
      labels: {app: sample}
    spec:
      nodeSelector:
        arhat.dev/role: EdgeDevice
      tolerations:
      - key: arhat.dev/namespace
        operator: Equal
        value: edge
      topologySpreadConstraints:
      - topologyKey: arhat.dev/name
        maxSkew: 1
        whenUnsatisfiable: DoNotSchedule
        labelSelector:
          matchLabels: {app: sample}
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: test.local/busybox:1
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'i=0; while :; do i=$((i+1)); echo "line $i of $HOSTNAME"; sleep 0.2; done']
`

// A Deployment as the 2019 system's README shows it: a toleration, and a node selector.
func TestDeployment(t *testing.T) {
	e := suite.Get(t)
	e.Apply(t, deployment)
	e.Kubectl(t, "-n", "edge", "rollout", "status", "deployment/sample", "--timeout=90s")
	pods, err := e.Kube.CoreV1().Pods("edge").List(t.Context(), metav1.ListOptions{LabelSelector: labels.Set{"app": "sample"}.String()})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]int{}
	for _, p := range pods.Items {
		nodes[p.Spec.NodeName]++
		if p.Status.PodIP == "" || p.Status.HostIP == "" || p.Status.StartTime == nil {
			t.Errorf("the status of pod %s lacks addresses or start time: %+v", p.Name, p.Status)
		}
		if len(p.Status.ContainerStatuses) != 1 || !strings.HasPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://") {
			t.Errorf("container statuses of pod %s: %+v", p.Name, p.Status.ContainerStatuses)
		}
	}
	if nodes["device-1"] != 1 || nodes["device-2"] != 1 {
		t.Errorf("pods per node: %v", nodes)
	}
	// A new template is rolled out, and the old pods go.
	e.Kubectl(t, "-n", "edge", "set", "env", "deployment/sample", "ROUND=2")
	e.Kubectl(t, "-n", "edge", "rollout", "status", "deployment/sample", "--timeout=120s")
}

func TestLogsFollow(t *testing.T) {
	e := suite.Get(t)
	pod := e.RunPod(t, suite.Busybox(device, `i=0; while :; do i=$((i+1)); echo "line $i"; echo "error $i" >&2; sleep 0.1; done`))
	logs := e.KubectlBackground(t, "-n", "edge", "logs", "-f", pod.Name)
	logs.Expect(t, 30*time.Second, `^line 1$`)
	// Lines that are written only now.
	logs.Expect(t, 30*time.Second, `^line 30$`)
	logs.Expect(t, 30*time.Second, `^error 3\d$`)

	tail := e.Kubectl(t, "-n", "edge", "logs", pod.Name, "--tail=2")
	if n := strings.Count(tail, "\n"); n != 2 {
		t.Errorf("--tail=2 gave %d lines: %q", n, tail)
	}
	stamped := e.Kubectl(t, "-n", "edge", "logs", pod.Name, "--timestamps", "--limit-bytes=25")
	if len(stamped) != 25 {
		t.Errorf("--limit-bytes=25 gave %d bytes", len(stamped))
	} else if _, err := time.Parse("2006-01-02T15:04:05", stamped[:19]); err != nil {
		t.Errorf("--timestamps: %v", err)
	}
}

func TestConfigMapAndSecret(t *testing.T) {
	e := suite.Get(t)
	name := suite.Name("config")
	e.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {namespace: edge, name: %[1]s}
data: {color: "blue $HOME $(X)", file.txt: from a config map}
---
apiVersion: v1
kind: Secret
metadata: {namespace: edge, name: %[1]s}
stringData: {password: "s3cret"}
`, name))
	pod := suite.Busybox(device, `echo "color=$COLOR"; echo "node=$NODE"; echo "password=$(cat /secret/password)"; ls -lL /secret/password | cut -c1-10;
		echo "map=$(cat /map/file.txt)"; echo "labels=$(cat /downward/labels)"; while :; do sleep 1; done`)
	pod.Labels = map[string]string{"seen": "inside"}
	mode := int32(0o400)
	ref := corev1.LocalObjectReference{Name: name}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{
		{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "color"}}},
		{Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
	}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "secret", MountPath: "/secret"}, {Name: "map", MountPath: "/map"}, {Name: "downward", MountPath: "/downward"}}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: &mode}}},
		{Name: "map", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref}}},
		{Name: "downward", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
	}
	created := e.RunPod(t, pod)
	want := "color=blue $HOME $(X)\nnode=device-1\npassword=s3cret\n-r--------\nmap=from a config map\nlabels=seen=\"inside\"\n"
	suite.Eventually(t, 30*time.Second, "the container sees its configuration", func(context.Context) error {
		if got := e.Kubectl(t, "-n", "edge", "logs", created.Name); got != want {
			return fmt.Errorf("log %q, want %q", got, want)
		}
		return nil
	})
	// A running pod sees a change.
	e.Kubectl(t, "-n", "edge", "patch", "configmap", name, "--type=merge", `-p={"data":{"file.txt":"changed"}}`)
	suite.Eventually(t, 90*time.Second, "the change arrives in the volume", func(context.Context) error {
		if got := e.Kubectl(t, "-n", "edge", "exec", created.Name, "--", "cat", "/map/file.txt"); got != "changed" {
			return fmt.Errorf("file.txt holds %q", got)
		}
		return nil
	})
}

// Init containers run first and in order; a container that fails is restarted; exit codes are told.
func TestLifecycle(t *testing.T) {
	e := suite.Get(t)
	pod := suite.Busybox(device, `cat /data/first /data/second; exit 3`)
	pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	mounts := []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod.Spec.Containers[0].VolumeMounts = mounts
	for _, init := range []struct{ name, script string }{{"first", "echo 1 > /data/first"}, {"second", "cp /data/first /data/second"}} {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: init.name, Image: suite.BusyboxImage,
			ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", init.script}, VolumeMounts: mounts})
	}
	created := e.CreatePod(t, pod)
	p := e.WaitPod(t, created, "restarted", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount >= 1 && s[0].LastTerminationState.Terminated != nil
	})
	if code := p.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode; code != 3 {
		t.Errorf("exit code %d", code)
	}
	for _, s := range p.Status.InitContainerStatuses {
		if s.State.Terminated == nil || s.State.Terminated.Reason != "Completed" {
			t.Errorf("init container %s: %+v", s.Name, s.State)
		}
	}
	if got := e.Kubectl(t, "-n", "edge", "logs", created.Name, "--previous"); got != "1\n1\n" {
		t.Errorf("log of the previous instance: %q", got)
	}

	job := suite.Busybox(device, "true")
	job.Spec.RestartPolicy = corev1.RestartPolicyNever
	e.WaitPod(t, e.CreatePod(t, job), "succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
}

func TestImageThatIsNotThere(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	pod := e.CreatePod(t, suite.Pod(device, "test.local/none:1"))
	e.WaitPod(t, pod, "waiting for its image", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && (s[0].State.Waiting.Reason == "ErrImagePull" || s[0].State.Waiting.Reason == "ImagePullBackOff")
	})
	suite.Eventually(t, 30*time.Second, "event", func(ctx context.Context) error {
		if out := e.Kubectl(t, "-n", "edge", "describe", "pod", pod.Name); !strings.Contains(out, "Failed to pull image") {
			return fmt.Errorf("kubectl describe does not tell: %s", out)
		}
		return nil
	})
}

// Nothing of a deleted pod stays on the device: neither sandbox nor container nor directory.
func TestDeleteLeavesNothing(t *testing.T) {
	e := suite.Get(t)
	cri := e.CRI(t, device)
	pod := e.RunPod(t, suite.Busybox(device, "while :; do sleep 1; done"))
	uid := string(pod.UID)
	if len(suite.Sandboxes(t, cri, uid)) != 1 || len(suite.Containers(t, cri, uid)) != 1 {
		t.Fatal("the runtime does not know the pod")
	}
	e.Kubectl(t, "-n", "edge", "delete", "pod", pod.Name)
	e.WaitPodGone(t, pod)
	// kubectl returns only when the device has confirmed, so this is so at once.
	if s, c := suite.Sandboxes(t, cri, uid), suite.Containers(t, cri, uid); len(s) != 0 || len(c) != 0 {
		t.Errorf("left behind: sandboxes %v, containers %v", s, c)
	}
	if out := findFiles(t, e.Cluster.Dir+"/devices/"+device, uid); len(out) != 0 {
		t.Errorf("files left behind: %v", out)
	}
}

package chaos_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/test/framework/suite"
)

// kind is what is expected of a pod.
type kind string

const (
	steady    kind = "steady"    // runs for ever; has new containers after a reboot only
	victim    kind = "victim"    // as steady, but its container is killed behind the agent's back
	ordered   kind = "ordered"   // as steady, with init containers and a sidecar that start in order
	once      kind = "once"      // runs until the first reboot, and never again
	completed kind = "completed" // has run, and must not run again
)

// runs says whether a pod of this kind is always running.
func (k kind) runs() bool { return k == steady || k == victim || k == ordered }

const (
	forever = "trap exit TERM; while :; do sleep 1; done"
	// webReplicas of the Deployment.
	webReplicas = 2
	webLabel    = "web"
)

// workload is the pods of the trial by UID.
type workload struct {
	e    *suite.Env
	data string // a directory of the device where containers leave marks, one file for each pod
	pods map[string]*expected
}

// expected is a pod of the workload.
type expected struct {
	kind      kind
	namespace string
	name      string
	uid       string
	ended     bool // of kind once: it has ended
}

// newWorkload creates all pods and waits until they are as they should be.
func newWorkload(t *testing.T, e *suite.Env) *workload {
	t.Helper()
	w := &workload{e: e, data: filepath.Join(e.Cluster.Dir, "devices", device, "marks"), pods: map[string]*expected{}}
	if err := os.MkdirAll(w.data, 0o755); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: suite.Namespace, Name: "chaos"}, StringData: map[string]string{"password": "s3cret"}}
	if _, err := e.Kube.CoreV1().Secrets(suite.Namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.deploy(t)
	w.add(t, steady, secretPod())
	w.add(t, victim, suite.Busybox(device, forever))
	w.add(t, ordered, w.orderedPod())
	w.addOnce(t)
	done := w.marking(suite.Busybox(device, ""), "")
	done.Spec.RestartPolicy = corev1.RestartPolicyNever
	w.add(t, completed, done)
	w.job(t)
	return w
}

// add creates a pod and waits until it runs, or has ended if it is to.
func (w *workload) add(t *testing.T, k kind, pod *corev1.Pod) *expected {
	t.Helper()
	created, err := w.e.Kube.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if k == completed {
		w.e.WaitPod(t, created, "completed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	} else {
		w.e.WaitPodReady(t, created)
	}
	return w.expect(k, created)
}

func (w *workload) expect(k kind, pod *corev1.Pod) *expected {
	p := &expected{kind: k, namespace: pod.Namespace, name: pod.Name, uid: string(pod.UID)}
	w.pods[p.uid] = p
	return p
}

// addOnce adds the pod that a reboot ends.
func (w *workload) addOnce(t *testing.T) {
	t.Helper()
	pod := w.marking(suite.Busybox(device, ""), forever)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	w.add(t, once, pod)
}

// marking has the first container of a pod leave a mark each time it runs, before it runs the script.
func (w *workload) marking(pod *corev1.Pod, script string) *corev1.Pod {
	c := &pod.Spec.Containers[0]
	c.Command = []string{"sh", "-c", `echo ran >> /marks/$POD_UID; ` + script}
	c.Env = []corev1.EnvVar{{Name: "POD_UID", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}}
	w.mountMarks(pod)
	return pod
}

func (w *workload) mountMarks(pod *corev1.Pod) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "marks", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: w.data}}})
	mount := corev1.VolumeMount{Name: "marks", MountPath: "/marks"}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].VolumeMounts = append(containers[i].VolumeMounts, mount)
		}
	}
}

// marks returns what the containers of a pod have left.
func (w *workload) marks(t *testing.T, uid string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.data, uid))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// secretPod ends, which is seen, if its Secret is not there.
func secretPod() *corev1.Pod {
	pod := suite.Busybox(device, `[ "$(cat /secret/password)" = s3cret ] || exit 1; `+forever)
	pod.Spec.Volumes = []corev1.Volume{{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "chaos"}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "secret", MountPath: "/secret"}}
	return pod
}

// orderedMarks is what one start of the ordered pod leaves.
const orderedMarks = "first\nproxy\nsecond\nmain\n"

// orderedPod leaves a mark at the start of each container. The second init container needs the sidecar.
func (w *workload) orderedPod() *corev1.Pod {
	script := func(name, then string) []string {
		return []string{"sh", "-c", fmt.Sprintf("echo %s >> /marks/$POD_UID; %s", name, then)}
	}
	env := []corev1.EnvVar{{Name: "POD_UID", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}}
	pod := suite.Busybox(device, "")
	pod.Spec.Containers[0].Command, pod.Spec.Containers[0].Env = script("main", forever), env
	for _, c := range []corev1.Container{
		{Name: "first", Command: script("first", "")},
		{Name: "proxy", Command: script("proxy", "touch /up; "+forever), RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
			StartupProbe: &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 60, ProbeHandler: corev1.ProbeHandler{
				Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/up"}}}}},
		{Name: "second", Command: script("second", "")},
	} {
		c.Image, c.ImagePullPolicy, c.Env = suite.BusyboxImage, corev1.PullIfNotPresent, env
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	w.mountMarks(pod)
	return pod
}

// deploy creates a Deployment, whose pods must stay the same ones.
func (w *workload) deploy(t *testing.T) {
	t.Helper()
	template := suite.Busybox(device, forever)
	template.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 5, ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{"true"}}}}
	labels := map[string]string{"app": webLabel}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: suite.Namespace, Name: webLabel},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](webReplicas), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template.Spec},
		},
	}
	if _, err := w.e.Kube.AppsV1().Deployments(suite.Namespace).Create(t.Context(), deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, pod := range w.owned(t, "app="+webLabel, webReplicas) {
		w.e.WaitPodReady(t, &pod)
		w.expect(steady, &pod)
	}
}

// job creates a Job and waits until it is complete.
func (w *workload) job(t *testing.T) {
	t.Helper()
	template := w.marking(suite.Busybox(device, ""), "")
	template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: suite.Namespace, Name: "job"},
		Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: template.Spec}},
	}
	if _, err := w.e.Kube.BatchV1().Jobs(suite.Namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := w.owned(t, batchv1.JobNameLabel+"=job", 1)[0]
	w.e.WaitPod(t, &pod, "completed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	w.expect(completed, &pod)
}

// owned waits until a controller has made its pods.
func (w *workload) owned(t *testing.T, selector string, count int) []corev1.Pod {
	t.Helper()
	var found []corev1.Pod
	suite.Eventually(t, suite.PodTimeout, "pods "+selector, func(ctx context.Context) error {
		list, err := w.e.Kube.CoreV1().Pods(suite.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err == nil && len(list.Items) != count {
			err = fmt.Errorf("there are %d", len(list.Items))
		}
		if err == nil {
			found = list.Items
		}
		return err
	})
	return found
}

// of lists the pods of a kind.
func (w *workload) of(k kind) []*expected {
	var found []*expected
	for _, p := range w.pods {
		if p.kind == k {
			found = append(found, p)
		}
	}
	return found
}

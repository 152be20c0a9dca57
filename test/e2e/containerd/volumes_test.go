package containerd_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/test/framework/suite"
)

// configMap creates a ConfigMap, and deletes it when the test ends.
func configMap(t *testing.T, e *suite.Env, name string, data map[string]string, immutable bool) {
	t.Helper()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: suite.Namespace}, Data: data, Immutable: &immutable}
	if _, err := e.Kube.CoreV1().ConfigMaps(suite.Namespace).Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Kube.CoreV1().ConfigMaps(suite.Namespace).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// mountAll mounts each volume of a pod at its name.
func mountAll(pod *corev1.Pod, volumes ...corev1.Volume) {
	pod.Spec.Volumes = volumes
	for _, v := range volumes {
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
	}
}

func configMapVolume(name, object string, change ...func(*corev1.ConfigMapVolumeSource)) corev1.Volume {
	source := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: object}}
	for _, f := range change {
		f(source)
	}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: source}}
}

// TestVolumesOfTheCluster is about what a pod can say of ConfigMaps, Secrets, tokens and itself as files.
func TestVolumesOfTheCluster(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	name, later := suite.Name("files"), suite.Name("later")
	configMap(t, e, name, map[string]string{"a": "from a", "b": "from b"}, true)
	e.Apply(t, fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {namespace: edge, name: %s}, immutable: true, stringData: {s: from s}}", name))
	pod := suite.Busybox(device, "exec sleep 1000")
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](1234)}
	pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	ref := corev1.LocalObjectReference{Name: name}
	mountAll(pod,
		configMapVolume("map", name, func(s *corev1.ConfigMapVolumeSource) {
			s.DefaultMode = ptr.To[int32](0o640)
			s.Items = []corev1.KeyToPath{{Key: "a", Path: "sub/dir/file", Mode: ptr.To[int32](0o400)}, {Key: "b", Path: "b"}}
		}),
		corev1.Volume{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: ptr.To[int32](0o400)}}},
		corev1.Volume{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "limit", Mode: ptr.To[int32](0o444), ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}},
			{Path: "note", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['note']"}}}}}},
		corev1.Volume{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "a", Path: "map/a"}}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: ref}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "somebody"}},
		}}}},
		configMapVolume("later", later, func(s *corev1.ConfigMapVolumeSource) { s.Optional = ptr.To(true) }),
	)
	pod.Annotations = map[string]string{"note": "before"}
	created := e.RunPod(t, pod)
	shell := func(script string) string {
		t.Helper()
		return strings.TrimSpace(e.Kubectl(t, "-n", created.Namespace, "exec", created.Name, "--", "sh", "-c", script))
	}
	for script, want := range map[string]string{
		"cat /map/sub/dir/file /map/b; ls /map":                                                                "from afrom bb\nsub",
		"stat -L -c '%a %g' /map/sub/dir/file /map/b":                                                          "440 1234\n640 1234",
		"cat /secret/s; stat -L -c %a /secret/s":                                                               "from s440",
		"cat /down/limit /down/note; stat -L -c ' %a' /down/limit":                                             "32before 444",
		"cat /all/map/a /all/s /all/name":                                                                      "from afrom s" + created.Name,
		"cut -d. -f2 /all/token | tr '_-' '/+' | base64 -d 2>/dev/null | grep -c '\"aud\":\\[\"somebody\"\\]'": "1",
		"ls /later": "",
	} {
		if got := shell(script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	// What is optional may come later; what is said of the pod itself changes with it.
	configMap(t, e, later, map[string]string{"key": "here now"}, false)
	e.Kubectl(t, "-n", created.Namespace, "annotate", "--overwrite", "pod", created.Name, "note=after")
	suite.Eventually(t, suite.PodTimeout, "the changes arrive", func(context.Context) error {
		if got := shell("cat /later/key /down/note 2>/dev/null || true"); got != "here nowafter" {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
}

// TestVolumesChangeAtomically has a container read two files of a volume over and over while they change:
// it never sees one of before beside one of after.
func TestVolumesChangeAtomically(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	name := suite.Name("atomic")
	configMap(t, e, name, map[string]string{"a": "0", "b": "0"}, false)
	pod := suite.Busybox(device, `while sleep 0.01; do cd -P /map/..data && a=$(cat a) && b=$(cat b) || continue
		[ "$a" = "$b" ] || echo "$a $b" >> /tmp/torn; echo >> /tmp/reads; done 2>/dev/null`)
	mountAll(pod, configMapVolume("map", name))
	// What is mounted by subPath stays as it was when the container started.
	pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "map", MountPath: "/single", SubPath: "a"})
	pod = e.RunPod(t, pod)
	for i := range 5 {
		want := fmt.Sprint(i + 1)
		e.Kubectl(t, "-n", pod.Namespace, "patch", "configmap", name, "--type=merge", `-p={"data":{"a":"`+want+`","b":"`+want+`"}}`)
		suite.Eventually(t, suite.PodTimeout, "the change arrives", func(context.Context) error {
			if got := e.Kubectl(t, "-n", pod.Namespace, "exec", pod.Name, "--", "cat", "/map/b"); got != want {
				return fmt.Errorf("got %q", got)
			}
			return nil
		})
	}
	out := e.Kubectl(t, "-n", pod.Namespace, "exec", pod.Name, "--", "sh", "-c", "cat /tmp/torn; test -s /tmp/reads && cat /single")
	if out != "0" {
		t.Errorf("files of different times, or the one by subPath has changed: %q", out)
	}
}

// TestWhatDoesNotResolve has pods refer to what is not there: they say so, wait, and start when it has come. Others
// are not affected.
func TestWhatDoesNotResolve(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	name, key := suite.Name("late"), suite.Name("key")
	volume, items, env := suite.Busybox(device, "exec sleep 1000"), suite.Busybox(device, "exec sleep 1000"), suite.Busybox(device, "exec sleep 1000")
	mountAll(volume, configMapVolume("map", name))
	mountAll(items, configMapVolume("map", key, func(s *corev1.ConfigMapVolumeSource) { s.Items = []corev1.KeyToPath{{Key: "missing", Path: "x"}} }))
	env.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: key}, Key: "missing"}}}}
	configMap(t, e, key, map[string]string{"there": "x"}, false)
	volume, items, env = e.CreatePod(t, volume), e.CreatePod(t, items), e.CreatePod(t, env)
	for pod, want := range map[*corev1.Pod]string{
		volume: `MountVolume.SetUp failed for volume "map" : configmap "` + name + `" not found`,
		items:  `MountVolume.SetUp failed for volume "map" : configmap references non-existent config key: missing`,
		env:    "Error: couldn't find key missing in ConfigMap edge/" + key,
	} {
		suite.Eventually(t, suite.PodTimeout, "an event tells "+want, func(ctx context.Context) error {
			events, err := e.Kube.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(pod.UID)})
			if err == nil && !slices.ContainsFunc(events.Items, func(event corev1.Event) bool { return event.Message == want }) {
				err = fmt.Errorf("events %v", events.Items)
			}
			return err
		})
	}
	e.WaitPod(t, volume, "waiting for its volume", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return p.Status.Phase == corev1.PodPending && len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ContainerCreating"
	})
	e.WaitPod(t, env, "waiting for its environment", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return p.Status.Phase == corev1.PodPending && len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	e.RunPod(t, suite.Busybox(device, "exec sleep 1000"))
	configMap(t, e, name, map[string]string{"k": "v"}, false)
	e.Kubectl(t, "-n", suite.Namespace, "patch", "configmap", key, "--type=merge", `-p={"data":{"missing":"no more"}}`)
	for _, pod := range []*corev1.Pod{volume, items, env} {
		e.WaitPodReady(t, pod)
	}
}

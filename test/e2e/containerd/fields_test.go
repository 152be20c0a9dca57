package containerd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/test/framework/suite"
)

// TestResize changes what a running pod may use, by kubectl.
func TestResize(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	pod := suite.Busybox(device, "exec sleep 1000")
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")}, Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
	}
	pod = e.RunPod(t, pod)
	before := pod.Status.ContainerStatuses[0]
	resize := func(cpu string) {
		e.Kubectl(t, "-n", pod.Namespace, "patch", "pod", pod.Name, "--subresource", "resize", "--patch",
			`{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"`+cpu+`"},"limits":{"cpu":"`+cpu+`"}}}]}}`)
	}
	resize("200m")
	pod = e.WaitPod(t, pod, "resized", func(p *corev1.Pod) bool {
		r := p.Status.ContainerStatuses[0].Resources
		return r != nil && r.Limits.Cpu().String() == "200m" && p.Status.ObservedGeneration == p.Generation && resizeCondition(p) == nil
	})
	if after := pod.Status.ContainerStatuses[0]; after.ContainerID != before.ContainerID || after.RestartCount != 0 {
		t.Errorf("the container was replaced: %+v", after)
	}
	out := e.Kubectl(t, "-n", pod.Namespace, "exec", pod.Name, "--", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cut -d ' ' -f 1 /sys/fs/cgroup/cpu.max")
	if got := strings.TrimSpace(out); got != "20000" {
		t.Errorf("the quota in the container is %q", got)
	}
	// What another pod has is not to be had before that has gone.
	other := suite.Busybox(device, "exec sleep 1000")
	other.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}
	other = e.RunPod(t, other)
	resize("1")
	e.WaitPod(t, pod, "waiting for room", func(p *corev1.Pod) bool {
		c := resizeCondition(p)
		return c != nil && c.Type == corev1.PodResizePending && c.Reason == corev1.PodReasonDeferred && c.ObservedGeneration == p.Generation &&
			p.Status.ContainerStatuses[0].Resources.Limits.Cpu().String() == "200m"
	})
	if err := e.Kube.CoreV1().Pods(other.Namespace).Delete(t.Context(), other.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.WaitPod(t, pod, "resized again", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].Resources.Limits.Cpu().String() == "1" && resizeCondition(p) == nil
	})
}

// resizeCondition is the first one that says that a resize is not done.
func resizeCondition(p *corev1.Pod) *corev1.PodCondition {
	i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress
	})
	if i < 0 {
		return nil
	}
	return &p.Status.Conditions[i]
}

// TestFieldsOfTheCluster is about what of a pod the cluster has to resolve for a device.
func TestFieldsOfTheCluster(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: suite.Name("class")}, Handler: "runc", Overhead: &nodev1.Overhead{
		PodFixed: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")},
	}}
	if _, err := e.Kube.NodeV1().RuntimeClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Kube.NodeV1().RuntimeClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	pod := suite.Busybox(device, `[ "$FILE" = "of the pod" ] && [ -z "$NONE" ] && [ -s /token/token ] && [ ! -e /token/none ] && exec sleep 1000`)
	pod.Spec.RuntimeClassName = &class.Name
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.InitContainers = []corev1.Container{pod.Spec.Containers[0]}
	pod.Spec.InitContainers[0].Name, pod.Spec.InitContainers[0].Command = "init", []string{"sh", "-c", `echo "KEY='of the pod'" > /work/env`}
	pod.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "work", MountPath: "/work"}}
	main := &pod.Spec.Containers[0]
	main.VolumeMounts = []corev1.VolumeMount{{Name: "token", MountPath: "/token"}}
	none := corev1.LocalObjectReference{Name: "there-is-none"}
	main.Env = []corev1.EnvVar{
		{Name: "FILE", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "work", Path: "env", Key: "KEY"}}},
		{Name: "NONE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: none, Key: "k", Optional: ptr.To(true)}}},
	}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "work", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](600)}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: none, Optional: ptr.To(true)}},
		}}}},
	}
	pod.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}}
	pod = e.RunPod(t, pod)
	if r := pod.Status.Resources; r != nil && r.Limits.Memory().String() != "64Mi" {
		t.Errorf("got resources %v", r)
	}
	// Neither in the container nor by the API does one see what the pod's cgroup has: limit and overhead.
	var limits []string
	for _, pattern := range []string{"/sys/fs/cgroup/memory/kubepods_*/burstable/pod%s/memory.limit_in_bytes", "/sys/fs/cgroup/kubepods_*/burstable/pod%s/memory.max"} {
		files, err := filepath.Glob(fmt.Sprintf(pattern, pod.UID))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
			}
			limits = append(limits, strings.TrimSpace(string(data)))
		}
	}
	if want := fmt.Sprint((64 + 16) << 20); len(limits) != 1 || limits[0] != want {
		t.Errorf("the pod's memory is limited to %v, want %s", limits, want)
	}
}

// TestPodDNS has pods use the resolver that the EdgeDevice names for them.
func TestPodDNS(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	const name = "device-2"
	patch := func(dns string) {
		t.Helper()
		out, err := e.Cluster.Kubectl(context.Background(), "-n", suite.Namespace, "patch", "ed", name, "--type=merge", `-p={"spec":{"pod":{"dns":`+dns+`}}}`).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	t.Cleanup(func() { patch("null") })
	patch(`{"nameservers":["192.0.2.53"],"searches":["svc.edge.example"],"options":[{"name":"ndots","value":"5"}]}`)
	resolver := func(change func(*corev1.PodSpec)) string {
		t.Helper()
		pod := suite.Busybox(name, "exec sleep 1000")
		change(&pod.Spec)
		pod = e.RunPod(t, pod)
		return e.Kubectl(t, "-n", pod.Namespace, "exec", pod.Name, "--", "sort", "/etc/resolv.conf")
	}
	const want = "nameserver 192.0.2.53\noptions ndots:5\nsearch svc.edge.example\n"
	suite.Eventually(t, suite.PodTimeout, "the device knows the resolver", func(context.Context) error {
		if got := resolver(func(*corev1.PodSpec) {}); got != want {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
	got := resolver(func(s *corev1.PodSpec) {
		s.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"more.example"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}}}
	})
	if want := "nameserver 192.0.2.53\noptions ndots:2\nsearch svc.edge.example more.example\n"; got != want {
		t.Errorf("with dnsConfig: got %q, want %q", got, want)
	}
	if got := resolver(func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSDefault }); strings.Contains(got, "192.0.2.53") {
		t.Errorf("with dnsPolicy Default: got %q", got)
	}
}

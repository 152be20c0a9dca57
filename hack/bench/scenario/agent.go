package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/utils/ptr"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/cluster/supervisor"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

const (
	agentDevice = "device-1"
	// heldPods is with how many pods the agent's memory is measured.
	heldPods = 10
	// idleTime is how long the agent has nothing to do before its memory is measured.
	idleTime = 20 * time.Second
	// fileTimeout bounds the wait for a file's new content.
	fileTimeout = 2 * time.Minute
	mountPath   = "/bench"
)

var agent = harness.Scenario{
	Name: "agent",
	Doc: "the agent on a device with containerd: its size and memory, N pods one after the other beside the same by CRI alone, exec in a " +
		"pod likewise, and changes of ConfigMaps and Secrets until their files change",
	N:       20,
	SmokeN:  2,
	Cluster: harness.Cluster{Devices: 1, Runtime: local.RuntimeContainerd},
	Run:     runAgent,
}

// agentBench is what the parts of the scenario share.
type agentBench struct {
	*harness.Run
	arhat   int
	runtime internalapi.RuntimeService
}

func runAgent(ctx context.Context, r *harness.Run) error {
	b := &agentBench{Run: r}
	var err error
	if b.arhat, err = r.Cluster.PID(ctx, agentDevice, local.ServiceArhat); err != nil {
		return err
	}
	socket := filepath.Join(r.Cluster.Dir, "devices", agentDevice, "containerd.sock")
	b.runtime, err = cri.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + socket).
		WithConnectionTimeout(time.Minute).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = b.runtime.Close(context.WithoutCancel(ctx)) }() // it goes with the process
	for _, part := range []func(context.Context) error{b.binary, b.idle, b.starts, b.full, b.execs, b.files} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *agentBench) binary(context.Context) error {
	info, err := os.Stat(filepath.Join(b.Cluster.State().Bin, "arhat"))
	if err != nil {
		return err
	}
	b.Figure(report.Figure{Name: "size of the agent's program", Value: float64(info.Size()) / (1 << 20), Unit: "MiB", Target: report.AtMost(26), Note: "stripped"})
	return nil
}

// memory is the agent's after it had nothing to do for a while.
func (b *agentBench) memory(ctx context.Context, name string, target float64) error {
	rest := idleTime
	if b.Smoke {
		rest = time.Second
	}
	before, err := measure.Process(b.arhat)
	if err != nil {
		return err
	}
	if err := sleep(ctx, rest); err != nil {
		return err
	}
	after, err := measure.Process(b.arhat)
	if err != nil {
		return err
	}
	b.Figure(report.Figure{Name: "memory of the agent, " + name, Value: float64(after.RSS) / (1 << 20), Unit: "MiB", Target: report.AtMost(target), Note: "RSS"})
	b.Figure(report.Figure{Name: "CPU of the agent, " + name, Value: 100 * (after.CPU - before.CPU).Seconds() / rest.Seconds(), Unit: "% of a core"})
	return nil
}

func (b *agentBench) idle(ctx context.Context) error { return b.memory(ctx, "no pods", 25) }

// agentPod is a pod for the device that does nothing.
func agentPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{v1alpha1.LabelName: agentDevice},
			Tolerations:                   []corev1.Toleration{{Key: v1alpha1.TaintNamespace, Operator: corev1.TolerationOpEqual, Value: local.Namespace}},
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{
				Name: "main", Image: local.SampleImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "1000000"},
			}},
		},
	}
}

// starts runs pods through Kubernetes and by CRI alone, in turns.
func (b *agentBench) starts(ctx context.Context) error {
	var whole, own measure.Samples
	for i := range b.N {
		name := fmt.Sprintf("start-%d", i)
		if err := whole.Time(func() error { return b.runPod(ctx, agentPod(name)) }); err != nil {
			return err
		}
		if err := b.deletePod(ctx, name); err != nil {
			return err
		}
		direct, err := b.startDirect(ctx, i, &own)
		if err != nil {
			return fmt.Errorf("run a pod by CRI: %w", err)
		}
		if err := b.removeDirect(ctx, direct); err != nil {
			return err
		}
	}
	b.Latency("pod created until Running", &whole, nil, nil)
	b.Latency("the same sandbox and container by CRI alone", &own, nil, nil)
	b.Figure(report.Figure{Name: "what aranya and Kubernetes add p50", Value: ms(whole.Median() - own.Median()), Unit: "ms",
		Note: "scheduling, the way to the device and that of the status back"})
	return nil
}

// runPod creates a pod and waits until its status is Running.
func (b *agentBench) runPod(ctx context.Context, pod *corev1.Pod) error {
	client := b.Kube.CoreV1().Pods(local.Namespace)
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	w, err := client.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
	if err != nil {
		return err
	}
	defer w.Stop()
	if _, err := client.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	for {
		event, err := next(ctx, w)
		if err != nil {
			return fmt.Errorf("pod %s does not run: %w", pod.Name, err)
		}
		if p, ok := event.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning {
			return nil
		}
	}
}

func (b *agentBench) deletePod(ctx context.Context, name string) error {
	client := b.Kube.CoreV1().Pods(local.Namespace)
	if err := client.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return poll(ctx, func(ctx context.Context) error {
		_, err := client.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(fmt.Errorf("pod %s is still there", name), err)
	})
}

// startDirect does at the runtime what the agent does for a pod, and returns the sandbox.
func (b *agentBench) startDirect(ctx context.Context, i int, samples *measure.Samples) (sandbox string, err error) {
	name := fmt.Sprintf("direct-%d", i)
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "bench", Uid: name},
		Hostname: name, Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
	err = samples.Time(func() error {
		if sandbox, err = b.runtime.RunPodSandbox(ctx, config, ""); err != nil {
			return err
		}
		container, err := b.runtime.CreateContainer(ctx, sandbox, &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: local.SampleImage},
			Command: []string{"sleep", "1000000"}, Linux: &runtimeapi.LinuxContainerConfig{},
		}, config)
		if err != nil {
			return err
		}
		return b.runtime.StartContainer(ctx, container)
	})
	return sandbox, err
}

func (b *agentBench) removeDirect(ctx context.Context, sandbox string) error {
	return errors.Join(b.runtime.StopPodSandbox(ctx, sandbox), b.runtime.RemovePodSandbox(ctx, sandbox))
}

func heldPod(i int) string { return fmt.Sprintf("held-%d", i) }

// full measures the agent with pods, the first of which has volumes. They stay for the other parts.
func (b *agentBench) full(ctx context.Context) error {
	if _, err := b.Kube.CoreV1().ConfigMaps(local.Namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Data: map[string]string{"key": "0"},
	}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := b.Kube.CoreV1().Secrets(local.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"}, StringData: map[string]string{"key": "0"},
	}, metav1.CreateOptions{}); err != nil {
		return err
	}
	for i := range heldPods {
		pod := agentPod(heldPod(i))
		if i == 0 {
			pod.Spec.Volumes = []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "bench"}}}},
				{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "bench"}}},
			}
			for _, v := range pod.Spec.Volumes {
				mount := corev1.VolumeMount{Name: v.Name, MountPath: mountPath + "/" + v.Name}
				pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, mount)
			}
		}
		if err := b.runPod(ctx, pod); err != nil {
			return err
		}
	}
	return b.memory(ctx, fmt.Sprintf("%d pods", heldPods), 35)
}

// container returns the id of the first held pod's container.
func (b *agentBench) container(ctx context.Context) (string, error) {
	pod, err := b.Kube.CoreV1().Pods(local.Namespace).Get(ctx, heldPod(0), metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, s := range pod.Status.ContainerStatuses {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok {
			return id, nil
		}
	}
	return "", fmt.Errorf("pod %s has no container", pod.Name)
}

// execs compares kubectl exec with an exec of the runtime.
func (b *agentBench) execs(ctx context.Context) error {
	id, err := b.container(ctx)
	if err != nil {
		return err
	}
	u := b.Kube.CoreV1().RESTClient().Get().Namespace(local.Namespace).Resource("pods").Name(heldPod(0)).SubResource("exec").URL()
	u.RawQuery = "command=true&stdout=true"
	var whole, own measure.Samples
	for range 2 * b.N {
		if err := own.Time(func() error {
			_, _, err := b.runtime.ExecSync(ctx, id, []string{"true"}, time.Minute)
			return err
		}); err != nil {
			return fmt.Errorf("exec by CRI: %w", err)
		}
		if err := whole.Time(func() error { return runAt(ctx, b.Config, u, nil, &counter{}) }); err != nil {
			return fmt.Errorf("exec in a pod: %w", err)
		}
	}
	b.Latency("exec of true in a pod, through Kubernetes", &whole, nil, nil)
	b.Latency("exec of true in the container by CRI alone", &own, nil, nil)
	b.Figure(report.Figure{Name: "exec in a pod adds p50", Value: ms(whole.Median() - own.Median()), Unit: "ms", Target: report.AtMost(50)})
	return nil
}

// files changes a ConfigMap and a Secret and waits until the container sees it.
func (b *agentBench) files(ctx context.Context) error {
	id, err := b.container(ctx)
	if err != nil {
		return err
	}
	root, err := b.rootOf(ctx, id)
	if err != nil {
		return err
	}
	var samples measure.Samples
	for i := 1; i <= b.N; i++ {
		value := fmt.Sprint(i)
		for volume, change := range map[string]func() error{
			"config": func() error {
				object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Data: map[string]string{"key": value}}
				_, err := b.Kube.CoreV1().ConfigMaps(local.Namespace).Update(ctx, object, metav1.UpdateOptions{})
				return err
			},
			"secret": func() error {
				object := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, StringData: map[string]string{"key": value}}
				_, err := b.Kube.CoreV1().Secrets(local.Namespace).Update(ctx, object, metav1.UpdateOptions{})
				return err
			},
		} {
			if err := samples.Time(func() error {
				if err := change(); err != nil {
					return err
				}
				return waitFile(ctx, filepath.Join(root, mountPath, volume), value)
			}); err != nil {
				return err
			}
		}
	}
	b.Latency("ConfigMap or Secret changed until the container's file is", &samples, nil, report.AtMost(2000))
	return nil
}

// rootOf is where this machine finds the root directory of a container.
func (b *agentBench) rootOf(ctx context.Context, id string) (string, error) {
	status, err := b.runtime.ContainerStatus(ctx, id, true)
	if err != nil {
		return "", err
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &info); err != nil {
		return "", fmt.Errorf("the runtime does not tell the process of container %s: %w", id, err)
	}
	pid, err := supervisor.HostPID(b.Cluster.State().Supervisors[agentDevice].PID, info.PID)
	return fmt.Sprintf("/proc/%d/root", pid), err
}

// waitFile waits until the file of a volume's key has this content. The volume is a link that changes,
// and absolute links would lead out of the container: there are none.
func waitFile(ctx context.Context, dir, want string) error {
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	for {
		data, err := os.ReadFile(filepath.Join(dir, "key"))
		if err == nil && string(data) == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s holds %q, not %q: %w", dir, data, want, errors.Join(err, ctx.Err()))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

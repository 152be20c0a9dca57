package chaos_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"

	"arhat.dev/aranya/test/framework/suite"
)

// snapshot is what the container runtime of the device has, by UID of the pod.
type snapshot map[string]*onDevice

// onDevice is a pod as the runtime sees it.
type onDevice struct {
	readySandboxes int
	// running are the ids of running containers by name; twice counts names that run more than once.
	running map[string]string
	twice   int
	// attempts is the highest number that a container of the name has.
	attempts map[string]uint32
}

// look asks the runtime. It may be down.
func look(ctx context.Context, e *suite.Env) (snapshot, error) {
	ctx, cancel := context.WithTimeout(logr.NewContext(ctx, logr.Discard()), 5*time.Second)
	defer cancel()
	socket := filepath.Join(e.Cluster.Dir, "devices", device, "containerd.sock")
	client, err := cri.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + socket).
		WithConnectionTimeout(2 * time.Second).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close(context.WithoutCancel(ctx)) }()
	sandboxes, err := client.ListPodSandbox(ctx, nil)
	if err != nil {
		return nil, err
	}
	containers, err := client.ListContainers(ctx, nil)
	if err != nil {
		return nil, err
	}
	s := snapshot{}
	for _, sandbox := range sandboxes {
		p := s.pod(sandbox.Metadata.GetUid())
		if sandbox.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			p.readySandboxes++
		}
	}
	for _, c := range containers {
		p, name := s.pod(c.Labels["io.kubernetes.pod.uid"]), c.GetMetadata().GetName()
		p.attempts[name] = max(p.attempts[name], c.GetMetadata().GetAttempt())
		if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		if p.running[name] != "" {
			p.twice++
		}
		p.running[name] = c.Id
	}
	return s, nil
}

func (s snapshot) pod(uid string) *onDevice {
	if s[uid] == nil {
		s[uid] = &onDevice{running: map[string]string{}, attempts: map[string]uint32{}}
	}
	return s[uid]
}

// containersOf a running pod of the kind.
func containersOf(k kind) []string {
	if k == ordered {
		return []string{"main", "proxy"}
	}
	return []string{"main"}
}

// runsWhole says whether exactly the containers that should run do, in one sandbox.
func (p *onDevice) runsWhole(k kind) error {
	if p == nil {
		return fmt.Errorf("the runtime has nothing of it")
	}
	if p.readySandboxes != 1 || p.twice > 0 || len(p.running) != len(containersOf(k)) {
		return fmt.Errorf("%d ready sandboxes, running containers %v", p.readySandboxes, p.running)
	}
	for _, name := range containersOf(k) {
		if p.running[name] == "" {
			return fmt.Errorf("container %s does not run", name)
		}
	}
	return nil
}

// whole says whether every pod is as it should be on the device.
func (w *workload) whole(s snapshot) error {
	for uid, p := range w.pods {
		here := s[uid]
		if p.kind.runs() || (p.kind == once && !p.ended) {
			if err := here.runsWhole(p.kind); err != nil {
				return fmt.Errorf("%s pod %s: %w", p.kind, p.name, err)
			}
		} else if here != nil && (here.readySandboxes > 0 || len(here.running) > 0) {
			return fmt.Errorf("%s pod %s: it runs again: %+v", p.kind, p.name, *here)
		}
	}
	for uid, p := range s {
		if w.pods[uid] == nil {
			return fmt.Errorf("the device has a pod too many, %s: %+v", uid, *p)
		}
	}
	return nil
}

// restartsBetween counts the containers that run now and are not those that ran before.
func (w *workload) restartsBetween(before, after snapshot) (restarts int) {
	for uid := range w.pods {
		if was, is := before[uid], after[uid]; was != nil && is != nil && !maps.Equal(was.running, is.running) {
			restarts++
		}
	}
	return restarts
}

// inCluster says whether the cluster shows every pod as the device has it, and no other.
func (w *workload) inCluster(ctx context.Context, s snapshot) error {
	list, err := w.e.Kube.CoreV1().Pods(suite.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(list.Items) != len(w.pods) {
		return fmt.Errorf("the cluster has %d pods and not %d", len(list.Items), len(w.pods))
	}
	for i := range list.Items {
		pod := &list.Items[i]
		p := w.pods[string(pod.UID)]
		if p == nil {
			return fmt.Errorf("the cluster has a pod too many, %s", pod.Name)
		}
		if err := p.shown(pod, s[p.uid]); err != nil {
			return fmt.Errorf("%s pod %s: %w", p.kind, p.name, err)
		}
	}
	node, err := w.e.Kube.CoreV1().Nodes().Get(ctx, device, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("node %s is not ready", device)
}

// shown says whether the status of a pod tells what the device has.
func (p *expected) shown(pod *corev1.Pod, here *onDevice) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("it is being deleted")
	case p.kind == completed:
		if pod.Status.Phase != corev1.PodSucceeded {
			return fmt.Errorf("phase %s", pod.Status.Phase)
		}
		return nil
	case p.kind == once && p.ended:
		if pod.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("phase %s", pod.Status.Phase)
		}
		return nil
	}
	ready := false
	for _, c := range pod.Status.Conditions {
		ready = ready || (c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue)
	}
	if pod.Status.Phase != corev1.PodRunning || !ready || here == nil {
		return fmt.Errorf("phase %s, ready %v", pod.Status.Phase, ready)
	}
	shown := map[string]corev1.ContainerStatus{}
	for _, cs := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		shown[cs.Name] = cs
	}
	for name, id := range here.running {
		if cs := shown[name]; cs.ContainerID != "containerd://"+id || uint32(cs.RestartCount) != here.attempts[name] {
			return fmt.Errorf("container %s is shown as %s with %d restarts, but is %s with %d", name, cs.ContainerID, cs.RestartCount, id, here.attempts[name])
		}
	}
	return nil
}

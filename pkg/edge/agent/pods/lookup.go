package pods

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	"arhat.dev/aranya/pkg/edge/agent/stats"
	"arhat.dev/aranya/pkg/edge/waiting"
)

// ErrNotFound says that a pod, or a container of it, is not on the device.
var ErrNotFound = errors.New("not found on this device")

// Pods returns the pods that the device holds, with their last status. They are copies.
func (m *Manager) Pods() []*v1.Pod {
	return m.podsThat(func(*worker) bool { return true })
}

// podsThat returns copies of the pods whose workers match; match is called with the worker's lock held.
func (m *Manager) podsThat(match func(*worker) bool) []*v1.Pod {
	var pods []*v1.Pod
	for _, w := range m.all() {
		w.mu.Lock()
		if w.desired != nil && match(w) {
			pod := w.desired.pod.DeepCopy()
			if w.last != nil {
				w.last.DeepCopyInto(&pod.Status)
			}
			pods = append(pods, pod)
		}
		w.mu.Unlock()
	}
	return pods
}

// Images lists the images of the pods that have not ended, as their specs name them.
func (m *Manager) Images() []string {
	var images []string
	for _, pod := range m.Pods() {
		if podutil.IsTerminal(pod.Status.Phase) {
			continue
		}
		for c := range podutil.Containers(pod) {
			images = append(images, c.Image)
		}
	}
	return images
}

// LocalPaths tells where a pod keeps data on the device.
func (m *Manager) LocalPaths(podUID string) stats.LocalPaths {
	w := m.worker(podUID)
	if w == nil {
		return stats.LocalPaths{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.desired == nil {
		return stats.LocalPaths{}
	}
	pod := w.desired.pod
	paths := stats.LocalPaths{Logs: podutil.LogDir(m.cfg.LogDir, pod.Namespace, pod.Name, podUID)}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.EmptyDir != nil {
			paths.Volumes = append(paths.Volumes, stats.LocalVolume{
				Name: v.Name, Path: m.volumes.EmptyDir(pod, v.Name), Memory: v.EmptyDir.Medium == v1.StorageMediumMemory,
			})
		}
	}
	return paths
}

// lookup returns what is known of a pod and a container of it.
func (m *Manager) lookup(podUID, container string) (*v1.Pod, *state.Pod, *v1.PodStatus, error) {
	w := m.worker(podUID)
	if w == nil {
		return nil, nil, nil, fmt.Errorf("pod %s: %w", podUID, ErrNotFound)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.desired == nil {
		return nil, nil, nil, fmt.Errorf("pod %s: %w", podUID, ErrNotFound)
	}
	pod := w.desired.pod
	if container != "" && podutil.FindContainer(pod, container) == nil {
		return nil, nil, nil, fmt.Errorf("container %q in pod %q: %w", container, pod.Name, ErrNotFound)
	}
	view, last := w.view, w.last
	if view == nil {
		view = &state.Pod{}
	}
	if last == nil {
		last = &pod.Status
	}
	return pod, view, last, nil
}

// ContainerID returns the runtime's id of the running container of that name, for exec and attach.
// The error is ErrNotFound, or says why the container is not running.
func (m *Manager) ContainerID(podUID, container string) (string, error) {
	pod, view, last, err := m.lookup(podUID, container)
	if err != nil {
		return "", err
	}
	c := view.Find(container)
	if c == nil || !c.Running() {
		return "", fmt.Errorf("container %q in pod %q is not running: %s", container, pod.Name, describeState(last, container))
	}
	return c.ID, nil
}

// SandboxID returns the runtime's id of the pod's ready sandbox, for port-forward.
func (m *Manager) SandboxID(podUID string) (string, error) {
	pod, view, _, err := m.lookup(podUID, "")
	if err != nil {
		return "", err
	}
	sandbox := view.ReadySandbox()
	if sandbox == nil {
		return "", fmt.Errorf("pod %q is not running", pod.Name)
	}
	return sandbox.Id, nil
}

// ContainerLog returns the path of a container's log and the runtime's id of that instance: the newest
// one, or the one before if previous is set. The id is empty if the runtime does not know it any more.
func (m *Manager) ContainerLog(podUID, container string, previous bool) (path, containerID string, err error) {
	pod, view, last, err := m.lookup(podUID, container)
	if err != nil {
		return "", "", err
	}
	found := m.logInstances(pod, container, view)
	switch {
	case !previous && len(found) > 0:
		return found[0].path, found[0].id, nil
	case !previous:
		return "", "", withoutLog(last, container, pod.Name)
	case len(found) > 0 && found[0].ended && isWaiting(last, container):
		return found[0].path, found[0].id, nil // it has ended and waits for its next start
	case len(found) > 1:
		return found[1].path, found[1].id, nil
	}
	return "", "", fmt.Errorf("previous terminated container %q in pod %q not found", container, pod.Name)
}

func containerStatus(s *v1.PodStatus, name string) *v1.ContainerStatus {
	for _, statuses := range [][]v1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == name {
				return &statuses[i]
			}
		}
	}
	return nil
}

func isWaiting(s *v1.PodStatus, name string) bool {
	cs := containerStatus(s, name)
	return cs != nil && cs.State.Waiting != nil
}

// withoutLog says, in the kubelet's words, why a container has no log.
func withoutLog(s *v1.PodStatus, name, pod string) error {
	cs := containerStatus(s, name)
	reason := describeState(s, name)
	switch {
	case cs == nil && podutil.IsTerminal(s.Phase): // it was rejected
		return fmt.Errorf("container %q in pod %q is not available", name, pod)
	case cs != nil && cs.State.Terminated != nil:
		return fmt.Errorf("container %q in pod %q is terminated", name, pod)
	case cs != nil && cs.State.Waiting != nil:
		reason = cs.State.Waiting.Reason // without the message
	}
	return errors.New(waiting.NoLog(name, pod, reason))
}

// describeState says in a few words what a container is doing.
func describeState(s *v1.PodStatus, name string) string {
	cs := containerStatus(s, name)
	switch {
	case cs == nil && podutil.IsTerminal(s.Phase):
		return "the pod has ended"
	case cs == nil:
		return "ContainerCreating"
	case cs.State.Waiting != nil && cs.State.Waiting.Message != "":
		return cs.State.Waiting.Reason + ": " + cs.State.Waiting.Message
	case cs.State.Waiting != nil:
		return cs.State.Waiting.Reason
	case cs.State.Terminated != nil:
		return fmt.Sprintf("%s with exit code %d", cs.State.Terminated.Reason, cs.State.Terminated.ExitCode)
	}
	return "starting"
}

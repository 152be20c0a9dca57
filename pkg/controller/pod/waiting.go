package pod

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/controller/pod/resolve"
)

// remindAfter is how often a pod that waits for the user is spoken of again.
const remindAfter = 2 * time.Minute

// wait tells the user what a pod that the device does not have waits for: in events and in its status,
// in the words of the kubelet.
func (c *Controller) wait(ctx context.Context, pod *corev1.Pod, missing *resolve.Unresolved) (time.Duration, error) {
	c.warnOfVolumes(pod, missing)
	if missing.Sandbox != nil {
		c.config.Events.Pod(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", missing.Sandbox)
	}
	if len(missing.Volumes) == 0 && missing.Sandbox == nil {
		for name, message := range missing.Containers {
			c.config.Events.Container(pod, name, corev1.EventTypeWarning, "Failed", "Error: %s", message)
		}
	}
	failures := missing.Containers
	if len(missing.Volumes) > 0 || missing.Sandbox != nil {
		failures = nil // the kubelet does not get to the containers before volumes and sandbox are there
	}
	if again, err := c.writeWaiting(ctx, pod, failures); again > 0 || err != nil {
		return again, err
	}
	return remindAfter, nil
}

// writeWaiting has the status of a pod that the device does not have say that it waits.
func (c *Controller) writeWaiting(ctx context.Context, pod *corev1.Pod, failures map[string]string) (again time.Duration, err error) {
	now := metav1.NewTime(c.config.Clock.Now())
	reported := waitingStatus(pod, failures, now)
	reported.HostIPs = c.hostIPs(pod)
	status := merge(pod, reported, now)
	return c.write(ctx, pod, &status)
}

// hostIPs are the addresses of a pod's device, as it has told them itself.
func (c *Controller) hostIPs(pod *corev1.Pod) (ips []corev1.HostIP) {
	device, ok := c.config.Owner(pod.Spec.NodeName)
	if !ok {
		return nil
	}
	ed, err := c.edgeDevices.EdgeDevices(device.Namespace).Get(device.Name)
	if err != nil || ed.Status.Device == nil {
		return nil
	}
	for _, a := range ed.Status.Device.Addresses {
		if a.Type == corev1.NodeInternalIP {
			ips = append(ips, corev1.HostIP{IP: a.Address})
		}
	}
	return ips
}

// warnOfVolumes tells the user what is missing for the volumes of a pod.
func (c *Controller) warnOfVolumes(pod *corev1.Pod, missing *resolve.Unresolved) {
	for _, message := range missing.Volumes {
		c.config.Events.Pod(pod, corev1.EventTypeWarning, "FailedMount", "%s", message)
	}
}

// waitingStatus is the status of a pod whose containers cannot be created yet. Failures holds the
// containers whose environment is incomplete.
func waitingStatus(pod *corev1.Pod, failures map[string]string, now metav1.Time) corev1.PodStatus {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	status := corev1.PodStatus{
		Phase: corev1.PodPending, StartTime: &now, ObservedGeneration: pod.Generation, AllocatedResources: requests,
		Resources: &corev1.ResourceRequirements{Requests: requests, Limits: resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})},
	}
	waiting := "ContainerCreating"
	if len(pod.Spec.InitContainers) > 0 {
		waiting = "PodInitializing"
	}
	add := func(list *[]corev1.ContainerStatus, containers []corev1.Container) {
		for i := range containers {
			w := &corev1.ContainerStateWaiting{Reason: waiting}
			if message, ok := failures[containers[i].Name]; ok {
				w = &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: message}
			}
			started := false
			*list = append(*list, corev1.ContainerStatus{
				Name: containers[i].Name, Image: containers[i].Image,
				State: corev1.ContainerState{Waiting: w}, Started: &started, VolumeMounts: volumeMounts(&containers[i]),
			})
		}
	}
	add(&status.InitContainerStatuses, pod.Spec.InitContainers)
	add(&status.ContainerStatuses, pod.Spec.Containers)
	add(&status.EphemeralContainerStatuses, ephemeralContainers(pod))
	for i := range status.EphemeralContainerStatuses {
		status.EphemeralContainerStatuses[i].Started = nil // as it has no probes
	}
	status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse, Reason: "PodSandboxNotReady", Message: "No Pod Sandbox found"},
		initialized(pod),
		notReady(corev1.PodReady, pod),
		notReady(corev1.ContainersReady, pod),
	}
	for i := range status.Conditions {
		status.Conditions[i].ObservedGeneration = pod.Generation
	}
	return status
}

// volumeMounts tells of the mounts of a container. Whether one is recursively read-only if that is possible is for
// the device to say, which knows its runtime.
func volumeMounts(c *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if wanted := ptr.Deref(m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled); m.ReadOnly && wanted != corev1.RecursiveReadOnlyIfPossible {
			s.RecursiveReadOnly = &wanted
		}
		out = append(out, s)
	}
	return out
}

func initialized(pod *corev1.Pod) corev1.PodCondition {
	if len(pod.Spec.InitContainers) == 0 {
		return corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	}
	return corev1.PodCondition{
		Type: corev1.PodInitialized, Status: corev1.ConditionFalse, Reason: "ContainersNotInitialized",
		Message: "containers with incomplete status: " + names(pod.Spec.InitContainers),
	}
}

func notReady(t corev1.PodConditionType, pod *corev1.Pod) corev1.PodCondition {
	return corev1.PodCondition{
		Type: t, Status: corev1.ConditionFalse, Reason: "ContainersNotReady",
		Message: "containers with unready status: " + names(pod.Spec.Containers),
	}
}

// names formats names of containers as the kubelet does: [a b c].
func names(containers []corev1.Container) string {
	var list []string
	for i := range containers {
		list = append(list, containers[i].Name)
	}
	return fmt.Sprint(list)
}

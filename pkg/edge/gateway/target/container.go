package target

import (
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/cmd/util/podcmd"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
	"arhat.dev/aranya/pkg/edge/waiting"
)

// Container is a container of a pod of the API. A nil one is the device's host.
//
// The device may not have the pod: it waits in the cluster for what it refers to, is on its way, or the
// device has lost it. The device cannot tell which, and knows no name of the pod: what it answers then
// is replaced by what the kubelet would.
type Container struct {
	Pod  *corev1.Pod
	Name string
}

// reference names the container in the terms of the protocol.
func (c *Container) reference(session gateway.Session) *edgeapi.ContainerRef {
	if c == nil {
		return nil
	}
	return &edgeapi.ContainerRef{PodUid: uidOnDevice(session, c.Pod), Container: c.Name}
}

func uidOnDevice(session gateway.Session, pod *corev1.Pod) string {
	return string(staticpod.UIDOnDevice(pod, session.Device().Namespace))
}

// tty tells whether the container's own process has a terminal.
func (c *Container) tty() bool {
	container, _ := podcmd.FindContainerByName(c.Pod, c.Name)
	return container != nil && container.TTY
}

// commandError is the API status for a command that has not begun.
func (c *Container) commandError(err error) error {
	if c == nil || !apierrors.IsNotFound(err) {
		return err
	}
	return notFound("container not found (%q)", c.Name)
}

// logError is the API status for a log that cannot be read. As with the kubelet it is a bad request:
// kube-apiserver does not show users what a kubelet says with 404.
func (c *Container) logError(session gateway.Session, err error, previous bool) error {
	if c == nil || !apierrors.IsNotFound(err) {
		return err
	}
	message := fmt.Sprintf("the log of container %q in pod %q is not on EdgeDevice %s", c.Name, c.Pod.Name, session.Device())
	if reason := c.waitingReason(); previous {
		message = fmt.Sprintf("previous terminated container %q in pod %q not found", c.Name, c.Pod.Name)
	} else if reason != "" {
		message = waiting.NoLog(c.Name, c.Pod.Name, reason)
	}
	return apierrors.NewBadRequest(message)
}

// waitingReason says why the container has not started yet. It is empty for one that has, and for one
// that never will.
func (c *Container) waitingReason() string {
	status := &c.Pod.Status
	if status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed {
		return ""
	}
	for _, s := range slices.Concat(status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses) {
		switch {
		case s.Name != c.Name:
		case s.State.Running != nil, s.State.Terminated != nil, s.LastTerminationState.Terminated != nil:
			return ""
		case s.State.Waiting != nil && s.State.Waiting.Reason != "":
			return s.State.Waiting.Reason
		}
	}
	if len(c.Pod.Spec.InitContainers) > 0 {
		return "PodInitializing"
	}
	return "ContainerCreating"
}

// dialError is the API status for a connection into a pod that was not made.
func dialError(err error, pod *corev1.Pod) error {
	if pod == nil || !apierrors.IsNotFound(err) {
		return err
	}
	return notFound("pod not found (%q)", pod.Name+"_"+pod.Namespace)
}

// notFound is a status with nothing but its message, which does not speak of the EdgeDevice.
func notFound(format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: fmt.Sprintf(format, args...),
	}}
}

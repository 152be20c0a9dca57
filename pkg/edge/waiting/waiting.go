// Package waiting holds what both ends of the link say in the same words of a container that has not started.
package waiting

import "fmt"

// NoLog is what somebody is told, as by the kubelet, who asks for the log of a container that waits for a reason.
func NoLog(container, pod, reason string) string {
	switch reason {
	case "ErrImagePull":
		reason = "image can't be pulled"
	case "ImagePullBackOff":
		reason = "trying and failing to pull image"
	}
	return fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, pod, reason)
}

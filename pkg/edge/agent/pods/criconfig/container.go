package criconfig

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// Instance is what one start of a container adds to its spec.
type Instance struct {
	RestartCount int
	// ImageRef is the runtime's reference of the image.
	ImageRef string
	User     ImageUser
	PodIPs   []string
	// TargetID is the container whose process namespace an ephemeral container joins, or empty.
	TargetID string
	Files    Files
}

// Container returns the configuration of a container to be created. Files that it mounts are made on
// the way.
func Container(pod *v1.Pod, c *v1.Container, node *Node, instance Instance) (*runtimeapi.ContainerConfig, error) {
	envs, err := environment(pod, c, node, instance.PodIPs, instance.Files)
	if err != nil {
		return nil, err
	}
	values := envMap(envs)
	security, err := containerSecurity(pod, c, node, instance.User)
	if err != nil {
		return nil, err
	}
	if instance.TargetID != "" && security.NamespaceOptions.Pid == runtimeapi.NamespaceMode_CONTAINER {
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = instance.TargetID
	}
	if len(c.VolumeDevices) > 0 {
		return nil, fmt.Errorf("container %q has volumeDevices, which cannot be used on an edge device", c.Name)
	}
	volumeMounts, err := mounts(pod, c, node, instance.Files, instance.PodIPs, values)
	if err != nil {
		return nil, err
	}
	termination, err := terminationMount(pod, c, node, instance.Files)
	if err != nil {
		return nil, fmt.Errorf("termination message file: %w", err)
	}
	if termination != nil {
		volumeMounts = append(volumeMounts, termination)
	}
	labels := podutil.PodLabels(pod, node.Owner)
	labels[types.KubernetesContainerNameLabel] = c.Name
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(instance.RestartCount)},
		Image:       &runtimeapi.ImageSpec{Image: instance.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, values),
		Args:        expandAll(c.Args, values),
		WorkingDir:  c.WorkingDir,
		Envs:        envs,
		Mounts:      volumeMounts,
		Labels:      labels,
		Annotations: annotations(pod, c, instance.RestartCount),
		LogPath:     filepath.Join(c.Name, strconv.Itoa(instance.RestartCount)+".log"),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		StopSignal:  stopSignal(c),
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       containerResources(pod, c, node),
			SecurityContext: security,
		},
	}, nil
}

func annotations(pod *v1.Pod, c *v1.Container, restartCount int) map[string]string {
	a := map[string]string{
		podutil.AnnotationHash:                     strconv.FormatUint(podutil.HashContainer(c), 16),
		podutil.AnnotationRestartCount:             strconv.Itoa(restartCount),
		podutil.AnnotationTerminationMessagePath:   c.TerminationMessagePath,
		podutil.AnnotationTerminationMessagePolicy: string(c.TerminationMessagePolicy),
	}
	if grace := pod.Spec.TerminationGracePeriodSeconds; grace != nil {
		a[podutil.AnnotationTerminationGracePeriod] = strconv.FormatInt(*grace, 10)
	}
	return a
}

func stopSignal(c *v1.Container) runtimeapi.Signal {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	name := strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(string(*c.Lifecycle.StopSignal))
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}

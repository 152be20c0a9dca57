// Package podutil answers small questions about a v1.Pod that several parts of the agent ask: names,
// labels, kinds of containers. Only what depends on nothing but the pod.
package podutil

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"iter"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubelet/pkg/types"
)

const (
	// LabelManagedBy marks sandboxes and containers in the runtime; its value is the agent's owner
	// name. What does not carry it is somebody else's.
	LabelManagedBy = "arhat.dev/managed-by"
)

// Annotations of containers in the runtime, as the kubelet names them.
const (
	AnnotationHash                     = "io.kubernetes.container.hash"
	AnnotationRestartCount             = "io.kubernetes.container.restartCount"
	AnnotationTerminationMessagePath   = "io.kubernetes.container.terminationMessagePath"
	AnnotationTerminationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationTerminationGracePeriod   = "io.kubernetes.pod.terminationGracePeriod"
)

// Describe names a pod in messages as the kubelet does: name_namespace(uid).
func Describe(pod *v1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// LogDir is the directory of a pod's logs below base.
func LogDir(base, namespace, name, uid string) string {
	return filepath.Join(base, namespace+"_"+name+"_"+uid)
}

// PodLabels are the labels of everything of the pod in the runtime.
func PodLabels(pod *v1.Pod, owner string) map[string]string {
	return map[string]string{
		types.KubernetesPodNameLabel:      pod.Name,
		types.KubernetesPodNamespaceLabel: pod.Namespace,
		types.KubernetesPodUIDLabel:       string(pod.UID),
		LabelManagedBy:                    owner,
	}
}

// HashContainer identifies what of a running container may be changed in its spec: if the hash
// changes, the container is replaced.
func HashContainer(c *v1.Container) uint64 {
	data, _ := json.Marshal(map[string]string{"name": c.Name, "image": c.Image}) // cannot fail
	hash := fnv.New32a()
	hash.Write(data)
	return uint64(hash.Sum32())
}

// IsSidecar tells whether an init container is restartable: it runs beside the others.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// Containers are all containers of the pod in order, each with the path of its list in the spec.
func Containers(pod *v1.Pod) iter.Seq2[*v1.Container, string] {
	return func(yield func(c *v1.Container, list string) bool) {
		for i := range pod.Spec.InitContainers {
			if !yield(&pod.Spec.InitContainers[i], "spec.initContainers") {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(&pod.Spec.Containers[i], "spec.containers") {
				return
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			if !yield((*v1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon), "spec.ephemeralContainers") {
				return
			}
		}
	}
}

// FindContainer returns the container of that name, of whatever kind, or nil.
func FindContainer(pod *v1.Pod, name string) *v1.Container {
	for c := range Containers(pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// FieldPath is how an event names a container, for example "spec.containers{web}".
func FieldPath(pod *v1.Pod, name string) string {
	for c, list := range Containers(pod) {
		if c.Name == name {
			return fmt.Sprintf("%s{%s}", list, name)
		}
	}
	return ""
}

// IsTerminal tells whether a pod in that phase has ended for good.
func IsTerminal(phase v1.PodPhase) bool { return phase == v1.PodSucceeded || phase == v1.PodFailed }

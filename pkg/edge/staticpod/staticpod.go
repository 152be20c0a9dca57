// Package staticpod holds what both ends of the link must agree on about static pods: those that a device runs
// from a folder of its own, and that the cluster shows as mirror pods. How manifests are read is for the
// agent, how mirror pods are made for the controllers.
package staticpod

import (
	"fmt"
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// Annotations as the kubelet sets them. The hash is the UID by which the device knows the pod. Seen is when the agent
// read the manifest first.
const (
	AnnotationHash   = "kubernetes.io/config.hash"
	AnnotationSeen   = "kubernetes.io/config.seen"
	AnnotationSource = "kubernetes.io/config.source"
	AnnotationMirror = v1.MirrorPodAnnotationKey
	// SourceFile is the value of AnnotationSource.
	SourceFile = "file"
)

// Feature is what a server announces that shows static pods.
const Feature = "static-pods"

// Limits of a device.
const (
	// MaxPods is how many static pods a device has at most.
	MaxPods = 100
	// MaxSize is how large one of them is at most, in bytes of its manifest or encoded.
	MaxSize = 256 << 10
	// MaxTotal is how large all those that it reports may be together, in bytes: they are one message.
	MaxTotal = edgeapi.MaxDeviceMessage - 1<<10
)

// Suffix ends the names of all static pods of a Node.
func Suffix(nodeName string) string { return "-" + strings.ToLower(nodeName) }

// IsMirror says whether a pod of the API shows a static pod.
func IsMirror(pod *v1.Pod) bool {
	_, ok := pod.Annotations[AnnotationMirror]
	return ok
}

// hashForm cannot be mistaken for the UID of a pod of the API.
var hashForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// ValidHash says whether a static pod may have this UID.
func ValidHash(hash string) bool { return hashForm.MatchString(hash) }

// UIDOnDevice is the UID by which a device of that namespace knows a pod of the API. Anybody who may create
// pods may annotate them as mirror pods. That must not lead into a pod of another namespace: static pods belong to
// the namespace of their device, and no other pod of the device is reached through a hash.
func UIDOnDevice(pod *v1.Pod, namespace string) types.UID {
	if hash := pod.Annotations[AnnotationMirror]; pod.Namespace == namespace && ValidHash(hash) {
		return types.UID(hash)
	}
	return pod.UID
}

// References refuses a pod that refers to objects of the API: a static pod has to run without the cluster, and
// a device that may show pods in the cluster may not pick what they are given there.
func References(spec *v1.PodSpec) error {
	refused := func(what string) error { return fmt.Errorf("static pods may not refer to %s", what) }
	switch {
	case spec.ServiceAccountName != "" || spec.DeprecatedServiceAccount != "":
		return refused("service accounts (serviceAccountName)")
	case len(spec.ImagePullSecrets) > 0:
		return refused("secrets (imagePullSecrets)")
	case len(spec.ResourceClaims) > 0:
		return refused("resource claims")
	}
	for i := range spec.Volumes {
		volume := &spec.Volumes[i]
		if what := referred(&volume.VolumeSource); what != "" {
			return refused(fmt.Sprintf("%s (volume %q)", what, volume.Name))
		}
	}
	for _, containers := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			if what := referredByEnv(&containers[i]); what != "" {
				return refused(fmt.Sprintf("%s (environment of container %q)", what, containers[i].Name))
			}
		}
	}
	return nil
}

// referred names what of the API a volume takes its content from, empty if nothing. Only what devices know is
// let through.
func referred(source *v1.VolumeSource) string {
	switch {
	case source.Secret != nil:
		return "secrets"
	case source.ConfigMap != nil:
		return "configmaps"
	case source.Projected != nil:
		for _, s := range source.Projected.Sources {
			if s.DownwardAPI == nil {
				return "secrets, configmaps, service accounts or other objects (projected)"
			}
		}
		return ""
	case source.EmptyDir != nil, source.HostPath != nil, source.DownwardAPI != nil, *source == (v1.VolumeSource{}):
		return ""
	}
	return "volumes other than emptyDir, hostPath, downwardAPI and projected ones"
}

func referredByEnv(c *v1.Container) string {
	for _, from := range c.EnvFrom {
		switch {
		case from.SecretRef != nil:
			return "secrets"
		case from.ConfigMapRef != nil:
			return "configmaps"
		}
	}
	for _, env := range c.Env {
		switch {
		case env.ValueFrom == nil:
		case env.ValueFrom.SecretKeyRef != nil:
			return "secrets"
		case env.ValueFrom.ConfigMapKeyRef != nil:
			return "configmaps"
		}
	}
	return ""
}

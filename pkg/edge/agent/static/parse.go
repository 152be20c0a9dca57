package static

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"arhat.dev/aranya/pkg/edge/staticpod"
)

// Parse makes a pod of a manifest: with a name and a UID of its own for the device and the content, and with
// all defaults. The file is a part of the UID.
func Parse(data []byte, file, namespace, nodeName string) (*v1.Pod, error) {
	manifest := v1.Pod{}
	if err := yaml.Unmarshal(data, &manifest); err != nil {
		return nil, fmt.Errorf("it is neither YAML nor JSON of a pod: %w", err)
	}
	if manifest.APIVersion != "v1" || manifest.Kind != "Pod" {
		return nil, fmt.Errorf("it is %q of version %q and not a Pod of version v1", manifest.Kind, manifest.APIVersion)
	}
	pod := &v1.Pod{Spec: manifest.Spec}
	pod.Name, pod.Labels, pod.Annotations = manifest.Name+staticpod.Suffix(nodeName), manifest.Labels, manifest.Annotations
	pod.Namespace = namespace
	if manifest.Namespace != "" && manifest.Namespace != namespace {
		return nil, fmt.Errorf("the namespace %q is not the device's: static pods are in the namespace of the EdgeDevice, %q", manifest.Namespace, namespace)
	}
	if manifest.Name == "" {
		return nil, errors.New("the pod has no name")
	}
	if problems := validation.IsDNS1123Subdomain(pod.Name); len(problems) > 0 {
		return nil, fmt.Errorf("the name %q cannot be used: %s", pod.Name, strings.Join(problems, ", "))
	}
	if err := validate(&pod.Spec); err != nil {
		return nil, err
	}
	hash := sha256.New()
	for _, part := range []string{nodeName, file, string(data)} {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	pod.UID = types.UID(hex.EncodeToString(hash.Sum(nil)[:16]))
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[staticpod.AnnotationHash], pod.Annotations[staticpod.AnnotationSource] = string(pod.UID), staticpod.SourceFile
	pod.Annotations[staticpod.AnnotationSeen] = time.Now().Format(time.RFC3339Nano)
	pod.Spec.NodeName = nodeName
	// Whoever put the manifest there wants the pod on this device, in whatever state the Node is.
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	setDefaults(&pod.Spec)
	return pod, nil
}

// validate refuses what the API server would refuse, as far as the device would otherwise stumble over it or
// the mirror pod could not be made.
func validate(spec *v1.PodSpec) error {
	if len(spec.Containers) == 0 {
		return errors.New("the pod has no containers")
	}
	if len(spec.EphemeralContainers) > 0 {
		return errors.New("static pods may not have ephemeral containers")
	}
	volumes := map[string]bool{}
	for i := range spec.Volumes {
		name := spec.Volumes[i].Name
		if len(validation.IsDNS1123Label(name)) > 0 || volumes[name] {
			return fmt.Errorf("the volume name %q is used twice, or is not a DNS label", name)
		}
		volumes[name] = true
	}
	names := map[string]bool{}
	for _, containers := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if len(validation.IsDNS1123Label(c.Name)) > 0 || names[c.Name] {
				return fmt.Errorf("the container name %q is used twice, or is not a DNS label", c.Name)
			}
			names[c.Name] = true
			if c.Image == "" {
				return fmt.Errorf("container %q has no image", c.Name)
			}
			for _, mount := range c.VolumeMounts {
				if !volumes[mount.Name] {
					return fmt.Errorf("container %q mounts the volume %q, which the pod does not have", c.Name, mount.Name)
				}
				if mount.MountPath == "" {
					return fmt.Errorf("container %q does not say where the volume %q is mounted", c.Name, mount.Name)
				}
			}
		}
	}
	return staticpod.References(spec)
}

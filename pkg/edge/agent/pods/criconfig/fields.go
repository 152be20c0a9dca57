package criconfig

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// fieldValue returns the value of a fieldRef of the pod. podIPs are primary first.
func fieldValue(pod *v1.Pod, node *Node, podIPs []string, path string) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support a subscript", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.host":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		if len(node.HostIPs) == 0 {
			return "", fmt.Errorf("the device has no address yet, which fieldPath %q asks for", path)
		}
		return node.HostIPs[0], nil
	case "status.hostIPs":
		return strings.Join(node.HostIPs, ","), nil
	case "status.podIP":
		if len(podIPs) == 0 {
			return "", nil
		}
		return podIPs[0], nil
	case "status.podIPs":
		return strings.Join(podIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// subscript splits path['key'].
func subscript(path string) (name, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return "", "", false
	}
	name, key, ok = strings.Cut(rest, "['")
	return name, key, ok && name != ""
}

// formatMap gives one key="escaped value" per line, sorted.
func formatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, fmt.Sprintf("%s=%q", key, m[key]))
	}
	return strings.Join(lines, "\n")
}

// resourceValue returns the value of a resourceFieldRef for a container. Limits that the container
// does not have are those of its pod, or else the device's allocatable resources.
func resourceValue(pod *v1.Pod, c *v1.Container, node *Node, ref *v1.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	resourceName := v1.ResourceName(name)
	var list v1.ResourceList
	switch kind {
	case "limits":
		list = c.Resources.Limits
	case "requests":
		list = c.Resources.Requests
	default:
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	quantity, ok := list[resourceName]
	switch {
	case resourceName == v1.ResourceCPU, resourceName == v1.ResourceMemory, resourceName == v1.ResourceEphemeralStorage:
		if (!ok || quantity.IsZero()) && kind == "limits" {
			if quantity = podLevelLimits(pod)[resourceName]; quantity.IsZero() {
				quantity = node.Allocatable[resourceName]
			}
		}
	case strings.HasPrefix(name, v1.ResourceHugePagesPrefix):
	default:
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	if resourceName == v1.ResourceCPU {
		return ceil(quantity.MilliValue(), divisor.MilliValue()), nil
	}
	return ceil(quantity.Value(), divisor.Value()), nil
}

func ceil(value, divisor int64) string {
	return strconv.FormatInt(int64(math.Ceil(float64(value)/float64(divisor))), 10)
}

// DownwardFile returns the content of a file of the downward API.
func DownwardFile(pod *v1.Pod, node *Node, podIPs []string, item *v1.DownwardAPIVolumeFile) ([]byte, error) {
	switch {
	case item.FieldRef != nil:
		value, err := fieldValue(pod, node, podIPs, item.FieldRef.FieldPath)
		return []byte(value), err
	case item.ResourceFieldRef != nil:
		c := findContainer(pod, item.ResourceFieldRef.ContainerName)
		if c == nil {
			return nil, fmt.Errorf("container %s not found", item.ResourceFieldRef.ContainerName)
		}
		value, err := resourceValue(pod, c, node, item.ResourceFieldRef)
		return []byte(value), err
	}
	return nil, fmt.Errorf("item %q has neither fieldRef nor resourceFieldRef", item.Path)
}

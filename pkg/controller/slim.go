package controller

import (
	corev1 "k8s.io/api/core/v1"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/intern"
)

// SlimDevice is the transformer for the informer of EdgeDevices: there is one in memory for each device, of
// which nobody here reads who manages which field, nor the fields that only a live link has.
func SlimDevice(object any) (any, error) {
	if ed, ok := object.(*aranya.EdgeDevice); ok {
		s := &ed.Status
		s.Link, s.Usage, s.Traffic = nil, nil, nil
		intern.Strings(&s.AgentVersion)
		intern.Conditions(s.Conditions)
		if d := s.Device; d != nil {
			intern.Strings(&d.OperatingSystem, &d.Architecture, &d.KernelVersion, &d.OSImage, &d.ContainerRuntimeVersion)
			d.Capacity, d.Allocatable = intern.Resources(d.Capacity), intern.Resources(d.Allocatable)
		}
	}
	return queue.StripManagedFields(object)
}

// slim is the same for Nodes and what else is watched in the main cluster. Images are only compared on
// Nodes of aranya's own.
func slim(object any) (any, error) {
	if n, ok := object.(*corev1.Node); ok {
		if n.Annotations[aranya.AnnotationUID] == "" {
			n.Status.Images = nil
		}
		n.Labels, n.Annotations = intern.Keys(n.Labels), intern.Keys(n.Annotations)
		for i := range n.Status.Conditions {
			c := &n.Status.Conditions[i]
			intern.Strings(&c.Reason, &c.Message)
			intern.Strings(&c.Type)
		}
		n.Status.Capacity, n.Status.Allocatable = intern.Resources(n.Status.Capacity), intern.Resources(n.Status.Allocatable)
		info := &n.Status.NodeInfo
		intern.Strings(&info.OperatingSystem, &info.Architecture, &info.KernelVersion, &info.OSImage, &info.ContainerRuntimeVersion, &info.KubeletVersion)
	}
	return queue.StripManagedFields(object)
}

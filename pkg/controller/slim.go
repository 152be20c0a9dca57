package controller

import (
	"unique"

	corev1 "k8s.io/api/core/v1"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/queue"
)

// SlimDevice is the transformer for the informer of EdgeDevices: there is one in memory for each device, of
// which nobody here reads who manages which field, nor the live fields. Of the link only that there was
// one when the object was read is left: it says that other fields were live as well.
func SlimDevice(object any) (any, error) {
	if ed, ok := object.(*aranya.EdgeDevice); ok {
		s := &ed.Status
		s.Usage, s.Traffic = nil, nil
		if s.Link != nil {
			s.Link = &aranya.LinkStatus{}
		}
		share(&s.AgentVersion)
		for i := range s.Conditions {
			c := &s.Conditions[i]
			share(&c.Type, &c.Reason, &c.Message)
		}
		if d := s.Device; d != nil {
			share(&d.OperatingSystem, &d.Architecture, &d.KernelVersion, &d.OSImage, &d.ContainerRuntimeVersion)
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
		n.Labels, n.Annotations = shared(n.Labels), shared(n.Annotations)
		for i := range n.Status.Conditions {
			c := &n.Status.Conditions[i]
			share((*string)(&c.Type), &c.Reason, &c.Message)
		}
		info := &n.Status.NodeInfo
		share(&info.OperatingSystem, &info.Architecture, &info.KernelVersion, &info.OSImage, &info.ContainerRuntimeVersion, &info.KubeletVersion)
	}
	return queue.StripManagedFields(object)
}

// share lets strings that are the same on many objects lie in memory once.
func share(texts ...*string) {
	for _, text := range texts {
		*text = unique.Make(*text).Value()
	}
}

// shared does so with the keys of a map.
func shared(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	same := make(map[string]string, len(m))
	for key, value := range m {
		same[unique.Make(key).Value()] = value
	}
	return same
}

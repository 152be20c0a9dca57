package edgedevice

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// Fields of an EdgeDevice that field selectors may name, beside metadata.name and metadata.namespace.
// v1alpha1 has the same list for the versions that clients use.
const (
	fieldMethod       = "spec.connectivity.method"
	fieldPhase        = "status.phase"
	fieldAgentVersion = "status.agentVersion"
)

// indexedFields maps each of them to its value. The watch cache keeps an index per field, so that a
// selector costs what it returns and not what there is.
var indexedFields = map[string]func(*aranya.EdgeDevice) string{
	fieldMethod:       func(d *aranya.EdgeDevice) string { return string(d.Spec.Connectivity.Method) },
	fieldPhase:        func(d *aranya.EdgeDevice) string { return string(d.Status.Phase) },
	fieldAgentVersion: func(d *aranya.EdgeDevice) string { return d.Status.AgentVersion },
}

// GetAttrs returns the labels and the selectable fields of an EdgeDevice.
func GetAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	device, ok := obj.(*aranya.EdgeDevice)
	if !ok {
		return nil, nil, fmt.Errorf("expected an EdgeDevice, got %T", obj)
	}
	set := make(fields.Set, len(indexedFields)+2)
	for name, value := range indexedFields {
		set[name] = value(device)
	}
	return device.Labels, generic.AddObjectMetaFieldsSet(set, &device.ObjectMeta, true), nil
}

// match is the predicate for a pair of selectors.
func match(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{
		Label:       label,
		Field:       field,
		GetAttrs:    GetAttrs,
		IndexFields: []string{"metadata.name", fieldMethod, fieldPhase, fieldAgentVersion},
	}
}

// indexers returns the indices of the watch cache.
func indexers() *cache.Indexers {
	result := make(cache.Indexers, len(indexedFields))
	for name, value := range indexedFields {
		result[storage.FieldIndex(name)] = func(obj any) ([]string, error) {
			device, ok := obj.(*aranya.EdgeDevice)
			if !ok {
				return nil, fmt.Errorf("expected an EdgeDevice, got %T", obj)
			}
			return []string{value(device)}, nil
		}
	}
	return &result
}

// nameTrigger lets the watch cache find the watchers of one device ("kubectl get ed NAME --watch")
// without asking every other watcher.
func nameTrigger(obj runtime.Object) string {
	if device, ok := obj.(*aranya.EdgeDevice); ok {
		return device.Name
	}
	return ""
}

package node

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/queue"
)

// NameIndex is the name of the index of the EdgeDevice informer by name without namespace: EdgeDevices
// of one name compete for a Node.
const NameIndex = "metadata.name"

// IndexDevice is its function.
func IndexDevice(object any) ([]string, error) {
	ed, ok := object.(*aranya.EdgeDevice)
	if !ok {
		return nil, nil
	}
	return []string{ed.Name}, nil
}

var _ cache.IndexFunc = IndexDevice

// DevicesNamed returns the EdgeDevices of this name in all namespaces, from memory.
func DevicesNamed(indexer cache.Indexer, name string) []types.NamespacedName {
	found, err := indexer.ByIndex(NameIndex, name)
	if err != nil {
		return nil
	}
	keys := make([]types.NamespacedName, 0, len(found))
	for _, object := range found {
		ed := object.(*aranya.EdgeDevice)
		keys = append(keys, types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name})
	}
	return keys
}

// nodeHandler notices changes of Nodes: of aranya's own, also if the EdgeDevice is gone, and of those that stand in
// the way.
func (c *Controller) nodeHandler() cache.ResourceEventHandler {
	notice := func(object any) {
		if n, ok := object.(*corev1.Node); ok {
			for _, key := range DevicesNamed(c.config.Devices.GetIndexer(), n.Name) {
				c.queue.Add(key)
			}
			if owner, ok := Owner(n); ok {
				c.queue.Add(links.Key(owner))
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if n, ok := object.(*corev1.Node); ok {
				c.census.seen(n.Name)
			}
			notice(object)
		},
		UpdateFunc: func(_, after any) { notice(after) },
		DeleteFunc: func(object any) { c.census.gone(); notice(queue.Deleted(object)) },
	}
}

// deviceHandler notices changes of EdgeDevices.
func (c *Controller) deviceHandler() cache.ResourceEventHandler {
	notice := func(object any) {
		if ed, ok := object.(*aranya.EdgeDevice); ok {
			c.queue.Add(types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name})
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: notice,
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*aranya.EdgeDevice)
			ed, ok2 := after.(*aranya.EdgeDevice)
			// The status is no input.
			if ok1 && ok2 && (old.UID != ed.UID || old.Generation != ed.Generation || hasFinalizer(old) != hasFinalizer(ed) ||
				!old.DeletionTimestamp.Equal(ed.DeletionTimestamp)) {
				notice(after)
			}
		},
		DeleteFunc: func(object any) {
			if ed, ok := queue.Deleted(object).(*aranya.EdgeDevice); ok {
				c.queue.AddAfter(types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name}, orphanWait)
			}
		},
	}
}

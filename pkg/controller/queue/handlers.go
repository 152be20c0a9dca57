package queue

import "k8s.io/client-go/tools/cache"

// Deleted returns the last known state of what an informer says is deleted.
func Deleted(object any) any {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		return unknown.Obj
	}
	return object
}

package queue

import (
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	// writtenTime and writtenObjects bound what is kept of one's own writes until the informer has seen
	// them, usually some milliseconds later.
	writtenTime    = 30 * time.Second
	writtenObjects = 1024
)

// Written reads from an informer's memory, but returns an object as it was last written here
// (Mutation) as long as that is newer. So a controller does not repeat its own writes.
func Written(store cache.Store) cache.MutationCache {
	return cache.NewIntegerResourceVersionMutationCacheWithOptions(klog.Background(), store, cache.MutationCacheOptions{
		TTL: writtenTime, MaxCacheSize: writtenObjects,
	})
}

// Package storagetest runs an etcd for tests that need storage of EdgeDevices. It does not make the storage: that
// is tested with it. Nothing but tests may import it.
package storagetest

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	etcd3testing "k8s.io/apiserver/pkg/storage/etcd3/testing"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// Options are those of storage with a watch cache over an etcd of its own.
func Options(t *testing.T, codec runtime.Codec) generic.RESTOptions {
	t.Helper()
	_, etcd := etcd3testing.NewUnsecuredEtcd3TestClientServer(t)
	config := storagebackend.NewDefaultConfig(etcd.Prefix, codec)
	config.Transport = etcd.Transport
	return generic.RESTOptions{
		StorageConfig:           config.ForResource(aranya.Resource("edgedevices")),
		Decorator:               genericregistry.StorageWithCacher(),
		DeleteCollectionWorkers: 1,
		ResourcePrefix:          "edgedevices",
	}
}

// WaitReady waits until the watch cache has filled itself; until then watches are refused.
func WaitReady(t *testing.T, store *genericregistry.Store) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return store.ReadinessCheck() == nil, nil
	}); err != nil {
		t.Fatal("the storage does not become ready:", err)
	}
}

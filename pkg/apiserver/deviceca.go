package apiserver

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/pager"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
)

// enrolledDevices returns the EdgeDevices that have enrolled, also long ago: a certificate that has expired may still be
// renewed, and one may have been renewed after the backup was made that the storage was restored from. The API is not
// served before the device CA is there, so edge must read from the storage.
func enrolledDevices(ctx context.Context, edge versioned.Interface) ([]types.NamespacedName, error) {
	// In pages: until the watch cache is filled, only these are read from etcd instead of being refused.
	list := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return edge.AranyaV1alpha1().EdgeDevices(metav1.NamespaceAll).List(ctx, options)
	})
	var enrolled []types.NamespacedName
	err := list.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		ed, ok := object.(*v1alpha1.EdgeDevice)
		if !ok {
			return fmt.Errorf("listing EdgeDevices gave a %T", object)
		}
		if ed.Status.Certificate != nil {
			enrolled = append(enrolled, types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name})
		}
		return nil
	})
	return enrolled, err
}

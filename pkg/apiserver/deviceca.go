package apiserver

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/registry/edgedevice"
)

// enrolledDevices returns the EdgeDevices with a certificate that has not expired. It reads them from etcd
// itself: the API is not served before the device CA is there.
func (c CompletedConfig) enrolledDevices(ctx context.Context) ([]types.NamespacedName, error) {
	options, err := c.Generic.RESTOptionsGetter.GetRESTOptions(aranya.Resource("edgedevices"), &aranya.EdgeDevice{})
	if err != nil {
		return nil, err
	}
	options.Decorator = generic.UndecoratedStorage
	storage, err := edgedevice.NewStorage(scheme.Scheme, options, nil)
	if err != nil {
		return nil, err
	}
	defer storage.EdgeDevice.Destroy()
	object, err := storage.EdgeDevice.List(request.WithNamespace(ctx, ""), &internalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	list, ok := object.(*aranya.EdgeDeviceList)
	if !ok {
		return nil, fmt.Errorf("listing EdgeDevices gave a %T", object)
	}
	var enrolled []types.NamespacedName
	now := time.Now()
	for i := range list.Items {
		ed := &list.Items[i]
		if certificate := ed.Status.Certificate; certificate != nil && now.Before(certificate.NotAfter.Time) {
			enrolled = append(enrolled, types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name})
		}
	}
	return enrolled, nil
}

package edgedevice

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serverstorage "k8s.io/apiserver/pkg/server/storage"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/intern"
)

// NewStorageCodec returns what encodes objects for storage in a format, and decodes them from any.
func NewStorageCodec(mediaType string) (runtime.Codec, runtime.GroupVersioner, error) {
	codec, versioner, err := serverstorage.NewStorageCodec(serverstorage.StorageCodecConfig{
		StorageMediaType:  mediaType,
		StorageSerializer: scheme.Codecs,
		StorageVersion:    v1alpha1.SchemeGroupVersion,
		MemoryVersion:     aranya.SchemeGroupVersion,
	})
	return storageCodec{codec}, versioner, err
}

// storageCodec encodes and decodes what is stored. The watch cache keeps each EdgeDevice and, of the last minutes,
// its former versions: what is the same on all of them, and on other devices, should lie in memory once.
type storageCodec struct{ runtime.Codec }

// Decode implements runtime.Decoder.
func (c storageCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	object, kind, err := c.Codec.Decode(data, defaults, into)
	if ed, ok := object.(*aranya.EdgeDevice); ok && err == nil {
		internDevice(ed)
	}
	return object, kind, err
}

func internDevice(ed *aranya.EdgeDevice) {
	intern.Strings(&ed.Namespace)
	intern.ManagedFields(ed.ManagedFields)
	for i := range ed.Finalizers {
		intern.Strings(&ed.Finalizers[i])
	}
	s := &ed.Status
	intern.Strings(&s.Phase)
	intern.Strings(&s.AgentVersion)
	intern.Conditions(s.Conditions)
	if d := s.Device; d != nil {
		intern.Strings(&d.OperatingSystem, &d.Architecture, &d.KernelVersion, &d.OSImage, &d.MachineID, &d.BootID, &d.ContainerRuntimeVersion)
		d.Capacity, d.Allocatable = intern.Resources(d.Capacity), intern.Resources(d.Allocatable)
	}
}

package validation

import (
	"k8s.io/apimachinery/pkg/util/validation/field"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// ValidateEdgeDevice checks a new EdgeDevice.
func ValidateEdgeDevice(device *aranya.EdgeDevice) field.ErrorList {
	return nil
}

// ValidateEdgeDeviceUpdate checks a changed EdgeDevice.
func ValidateEdgeDeviceUpdate(device, old *aranya.EdgeDevice) field.ErrorList {
	return nil
}

// ValidateEdgeDeviceStatusUpdate checks a changed status.
func ValidateEdgeDeviceStatusUpdate(device, old *aranya.EdgeDevice) field.ErrorList {
	return nil
}

package validation

import (
	"maps"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// Bounds on what comes from devices: whatever an agent says, an EdgeDevice stays small.
const (
	maxAgentVersion  = 256
	maxDeviceString  = 1024
	maxAddresses     = 64
	maxResourceNames = 256
)

var (
	phases = []aranya.EdgeDevicePhase{aranya.EdgeDevicePending, aranya.EdgeDeviceOnline, aranya.EdgeDeviceOffline}
	// linkMethods are the values of status.link.method.
	linkMethods  = []string{"grpc", "websocket", "mqtt"}
	serialNumber = regexp.MustCompile(`^[0-9a-fA-F]{1,64}$`)
	sha256Hex    = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ValidateEdgeDeviceStatusUpdate checks a changed status. The spec is not looked at.
func ValidateEdgeDeviceStatusUpdate(device, old *aranya.EdgeDevice) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&device.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	path := field.NewPath("status")
	status := &device.Status
	if !slices.Contains(phases, status.Phase) {
		errs = append(errs, field.NotSupported(path.Child("phase"), status.Phase, phases))
	}
	errs = append(errs, metav1validation.ValidateConditions(status.Conditions, path.Child("conditions"))...)
	errs = append(errs, maxLength(status.AgentVersion, maxAgentVersion, path.Child("agentVersion"))...)
	if status.NodeName != "" {
		errs = append(errs, invalid(path.Child("nodeName"), status.NodeName,
			apivalidation.NameIsDNSSubdomain(status.NodeName, false))...)
	}
	errs = append(errs, apivalidation.ValidateNonnegativeField(status.ObservedGeneration, path.Child("observedGeneration"))...)
	if status.Device != nil {
		errs = append(errs, validateDeviceInfo(status.Device, path.Child("device"))...)
	}
	if link := status.Link; link != nil {
		path := path.Child("link")
		if !slices.Contains(linkMethods, link.Method) {
			errs = append(errs, field.NotSupported(path.Child("method"), link.Method, linkMethods))
		}
		errs = append(errs, maxLength(link.Replica, maxDeviceString, path.Child("replica"))...)
		errs = append(errs, maxLength(link.RemoteAddress, maxDeviceString, path.Child("remoteAddress"))...)
	}
	if status.Certificate != nil {
		errs = append(errs, validateCertificate(status.Certificate, path.Child("certificate"))...)
	}
	return errs
}

func validateDeviceInfo(info *aranya.DeviceInfo, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{
		{"operatingSystem", info.OperatingSystem},
		{"architecture", info.Architecture},
		{"kernelVersion", info.KernelVersion},
		{"osImage", info.OSImage},
		{"machineID", info.MachineID},
		{"bootID", info.BootID},
		{"containerRuntimeVersion", info.ContainerRuntimeVersion},
	} {
		errs = append(errs, maxLength(f.value, maxDeviceString, path.Child(f.name))...)
	}
	addresses := path.Child("addresses")
	if len(info.Addresses) > maxAddresses {
		errs = append(errs, field.TooMany(addresses, len(info.Addresses), maxAddresses))
	}
	for i, address := range info.Addresses {
		errs = append(errs, maxLength(string(address.Type), maxDeviceString, addresses.Index(i).Child("type"))...)
		errs = append(errs, maxLength(address.Address, maxDeviceString, addresses.Index(i).Child("address"))...)
	}
	errs = append(errs, validateResources(info.Capacity, path.Child("capacity"))...)
	return append(errs, validateResources(info.Allocatable, path.Child("allocatable"))...)
}

func validateResources(resources corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(resources) > maxResourceNames {
		errs = append(errs, field.TooMany(path, len(resources), maxResourceNames))
	}
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		quantity := resources[name]
		errs = append(errs, metav1validation.ValidateLabelName(string(name), path.Key(string(name)))...)
		if quantity.Sign() < 0 {
			errs = append(errs, field.Invalid(path.Key(string(name)), quantity.String(), "must not be negative"))
		}
	}
	return errs
}

func validateCertificate(certificate *aranya.CertificateStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !serialNumber.MatchString(certificate.SerialNumber) {
		errs = append(errs, field.Invalid(path.Child("serialNumber"), certificate.SerialNumber, "must be 1 to 64 hexadecimal digits"))
	}
	if !sha256Hex.MatchString(certificate.PublicKeySHA256) {
		errs = append(errs, field.Invalid(path.Child("publicKeySHA256"), certificate.PublicKeySHA256, "must be 64 hexadecimal digits in lower case"))
	}
	if certificate.NotAfter.IsZero() {
		errs = append(errs, field.Required(path.Child("notAfter"), "every certificate expires"))
	}
	if at := certificate.EnrolledAt; at != nil && at.IsZero() {
		errs = append(errs, field.Invalid(path.Child("enrolledAt"), "", "must be a time if specified"))
	}
	return errs
}

func maxLength(value string, limit int, path *field.Path) field.ErrorList {
	if len(value) <= limit {
		return nil
	}
	return field.ErrorList{field.TooLong(path, "", limit)}
}

package v1alpha1

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
)

// addFieldLabelConversionFuncs names the fields that field selectors on EdgeDevices may use.
func addFieldLabelConversionFuncs(scheme *runtime.Scheme) error {
	return scheme.AddFieldLabelConversionFunc(SchemeGroupVersion.WithKind("EdgeDevice"),
		func(label, value string) (string, string, error) {
			switch label {
			case "metadata.name",
				"metadata.namespace",
				"spec.connectivity.method",
				"status.phase",
				"status.agentVersion":
				return label, value, nil
			}
			return "", "", fmt.Errorf("field label %q is not supported for EdgeDevices: use metadata.name, "+
				"metadata.namespace, spec.connectivity.method, status.phase or status.agentVersion", label)
		})
}

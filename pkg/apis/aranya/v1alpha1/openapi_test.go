package v1alpha1_test

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/generated/openapi"
)

func definitions() map[string]common.OpenAPIDefinition {
	return openapi.GetOpenAPIDefinitions(func(name string) spec.Ref { return spec.MustCreateRef("#/definitions/" + name) })
}

// TestEverythingIsDocumented holds "kubectl explain" to a description of every type and field that
// says what the field is, by its name.
func TestEverythingIsDocumented(t *testing.T) {
	checked := 0
	for model, definition := range definitions() {
		if !strings.HasPrefix(model, "dev.arhat.aranya.v1alpha1.") {
			continue
		}
		checked++
		if definition.Schema.Description == "" {
			t.Errorf("%s has no description", model)
		}
		for name, property := range definition.Schema.Properties {
			switch name {
			case "apiVersion", "kind", "metadata":
				continue
			}
			if !strings.HasPrefix(property.Description, name+" ") {
				t.Errorf("the description of %s.%s does not begin with the field's name: %q", model, name, property.Description)
			}
			if !strings.HasSuffix(property.Description, ".") {
				t.Errorf("the description of %s.%s is not a sentence: %q", model, name, property.Description)
			}
		}
	}
	if checked < 25 {
		t.Errorf("only %d types were found", checked)
	}
}

func TestChoicesAreListed(t *testing.T) {
	all := definitions()
	for _, tc := range []struct {
		model, field string
		want         []any
	}{
		{v1alpha1.Connectivity{}.OpenAPIModelName(), "method", []any{"grpc", "mqtt"}},
		{v1alpha1.ServiceSpec{}.OpenAPIModelName(), "type", []any{"ClusterIP", "LoadBalancer", "NodePort"}},
		{v1alpha1.MQTTConfig{}.OpenAPIModelName(), "version", []any{"3.1.1"}},
		{v1alpha1.MQTTConfig{}.OpenAPIModelName(), "transport", []any{"tcp", "websocket"}},
		{v1alpha1.NodeSpec{}.OpenAPIModelName(), "namespaceTaint", []any{"NoExecute", "NoSchedule", "None", "PreferNoSchedule"}},
		{v1alpha1.EdgeDeviceStatus{}.OpenAPIModelName(), "phase", []any{"Offline", "Online", "Pending"}},
	} {
		if got := all[tc.model].Schema.Properties[tc.field].Enum; !slices.Equal(got, tc.want) {
			t.Errorf("%s.%s lists the choices %v, want %v", tc.model, tc.field, got, tc.want)
		}
	}
}

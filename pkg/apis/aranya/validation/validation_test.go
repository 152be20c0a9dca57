package validation

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/install"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// newDevice returns a valid EdgeDevice as it is after defaulting.
func newDevice(t *testing.T) *aranya.EdgeDevice {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	external := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Name: "device-1", Namespace: "edge"}}
	scheme.Default(external)
	device := &aranya.EdgeDevice{}
	if err := scheme.Convert(external, device, nil); err != nil {
		t.Fatal(err)
	}
	return device
}

// withMQTT makes a device use MQTT.
func withMQTT(change func(*aranya.MQTTConfig)) func(*aranya.EdgeDevice) {
	return func(d *aranya.EdgeDevice) {
		d.Spec.Connectivity.Method = aranya.ConnectivityMQTT
		d.Spec.Connectivity.MQTTConfig = &aranya.MQTTConfig{
			MessageNamespace: "/aranya.arhat.dev",
			Server:           "broker.example.com:8883",
			Version:          aranya.MQTTVersion311,
			Transport:        aranya.MQTTTransportTCP,
		}
		change(d.Spec.Connectivity.MQTTConfig)
	}
}

// withGRPC gives a device a grpcConfig.
func withGRPC(change func(*aranya.GRPCConfig)) func(*aranya.EdgeDevice) {
	return func(d *aranya.EdgeDevice) {
		d.Spec.Connectivity.GRPCConfig = &aranya.GRPCConfig{}
		change(d.Spec.Connectivity.GRPCConfig)
	}
}

func withHeartbeat(interval time.Duration) func(*aranya.EdgeDevice) {
	return func(d *aranya.EdgeDevice) {
		d.Spec.Connectivity.HeartbeatInterval = &metav1.Duration{Duration: interval}
	}
}

// expect compares errors with "Type field detail" lines; the detail may be part of what is told.
func expect(t *testing.T, errs field.ErrorList, want []string) {
	t.Helper()
	if len(errs) != len(want) {
		t.Fatalf("got %d errors, want %d:\ngot:  %v\nwant: %v", len(errs), len(want), errs, want)
	}
	for i, err := range errs {
		parts := strings.SplitN(want[i], "|", 3)
		if string(err.Type) != "FieldValue"+parts[0] || err.Field != parts[1] || !strings.Contains(err.Detail, parts[2]) {
			t.Errorf("error %d is %s %q, want %s", i, err.Type, err, want[i])
		}
	}
}

// specCase is a change to a valid EdgeDevice and the errors that it must cause.
type specCase struct {
	name   string
	change func(*aranya.EdgeDevice)
	want   []string
}

func runSpecCases(t *testing.T, cases []specCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			device := newDevice(t)
			tc.change(device)
			expect(t, ValidateEdgeDevice(device), tc.want)
		})
	}
}

func TestValidateEdgeDevice(t *testing.T) {
	runSpecCases(t, []specCase{
		{name: "defaults", change: func(*aranya.EdgeDevice) {}},

		{name: "name with a dot", change: func(d *aranya.EdgeDevice) { d.Name = "a.b" }},
		{name: "name of 63 characters", change: func(d *aranya.EdgeDevice) { d.Name = strings.Repeat("a", 63) }},
		{
			name:   "name of 64 characters",
			change: func(d *aranya.EdgeDevice) { d.Name = strings.Repeat("a", 64) },
			want:   []string{"Invalid|metadata.name|no more than 63 characters"},
		},
		{
			name:   "name that no Node can have",
			change: func(d *aranya.EdgeDevice) { d.Name = "Device_1" },
			want:   []string{"Invalid|metadata.name|RFC 1123 subdomain"},
		},
		{
			name:   "no namespace",
			change: func(d *aranya.EdgeDevice) { d.Namespace = "" },
			want:   []string{"Required|metadata.namespace|"},
		},
		{
			name:   "generateName",
			change: func(d *aranya.EdgeDevice) { d.Name, d.GenerateName = "device-x", "Device-" },
			want:   []string{"Invalid|metadata.generateName|"},
		},

		{
			name:   "no method",
			change: func(d *aranya.EdgeDevice) { d.Spec.Connectivity.Method = "" },
			want:   []string{`Required|spec.connectivity.method|"grpc" or "mqtt"`},
		},
		{
			name:   "unknown method",
			change: func(d *aranya.EdgeDevice) { d.Spec.Connectivity.Method = "coap" },
			want:   []string{`NotSupported|spec.connectivity.method|"grpc", "mqtt"`},
		},
		{
			name: "mqttConfig with grpc",
			change: func(d *aranya.EdgeDevice) {
				withMQTT(func(*aranya.MQTTConfig) {})(d)
				d.Spec.Connectivity.Method = aranya.ConnectivityGRPC
			},
			want: []string{"Forbidden|spec.connectivity.mqttConfig|remove it, or set method"},
		},
		{
			name: "grpcConfig with mqtt",
			change: func(d *aranya.EdgeDevice) {
				withMQTT(func(*aranya.MQTTConfig) {})(d)
				withGRPC(func(*aranya.GRPCConfig) {})(d)
			},
			want: []string{"Forbidden|spec.connectivity.grpcConfig|remove it, or set method"},
		},
		{
			name:   "mqtt without mqttConfig",
			change: func(d *aranya.EdgeDevice) { d.Spec.Connectivity.Method = aranya.ConnectivityMQTT },
			want:   []string{"Required|spec.connectivity.mqttConfig|mqttConfig.server"},
		},
		{name: "heartbeat of 5s", change: withHeartbeat(5 * time.Second)},
		{name: "heartbeat of 1h", change: withHeartbeat(time.Hour)},
		{
			name:   "heartbeat too short",
			change: withHeartbeat(5*time.Second - 1),
			want:   []string{"Invalid|spec.connectivity.heartbeatInterval|from 5s to 1h"},
		},
		{
			name:   "heartbeat too long",
			change: withHeartbeat(time.Hour + 1),
			want:   []string{"Invalid|spec.connectivity.heartbeatInterval|from 5s to 1h"},
		},

		{
			name: "grpcConfig in full",
			change: withGRPC(func(c *aranya.GRPCConfig) {
				c.TLSSecretRef = &aranya.LocalSecretReference{Name: "tls"}
				c.Service = &aranya.ServiceSpec{Type: aranya.ServiceTypeLoadBalancer, Annotations: map[string]string{"example.com/a": "b"}}
			}),
		},
		{
			name:   "Secret without a name",
			change: withGRPC(func(c *aranya.GRPCConfig) { c.TLSSecretRef = &aranya.LocalSecretReference{} }),
			want:   []string{"Required|spec.connectivity.grpcConfig.tlsSecretRef.name|name a Secret"},
		},
		{
			name:   "Secret of another namespace",
			change: withGRPC(func(c *aranya.GRPCConfig) { c.TLSSecretRef = &aranya.LocalSecretReference{Name: "other/tls"} }),
			want:   []string{"Invalid|spec.connectivity.grpcConfig.tlsSecretRef.name|"},
		},
		{
			name:   "Service of type ExternalName",
			change: withGRPC(func(c *aranya.GRPCConfig) { c.Service = &aranya.ServiceSpec{Type: "ExternalName"} }),
			want:   []string{`NotSupported|spec.connectivity.grpcConfig.service.type|"ClusterIP", "NodePort", "LoadBalancer"`},
		},
		{
			name: "Service with a bad annotation",
			change: withGRPC(func(c *aranya.GRPCConfig) {
				c.Service = &aranya.ServiceSpec{Type: aranya.ServiceTypeClusterIP, Annotations: map[string]string{"a b": ""}}
			}),
			want: []string{"Invalid|spec.connectivity.grpcConfig.service.annotations|"},
		},
		{
			name: "Service for a name that no Service can have",
			change: func(d *aranya.EdgeDevice) {
				d.Name = "1.device"
				withGRPC(func(c *aranya.GRPCConfig) { c.Service = &aranya.ServiceSpec{Type: aranya.ServiceTypeClusterIP} })(d)
			},
			want: []string{"Forbidden|spec.connectivity.grpcConfig.service|choose another name"},
		},
	})
}

package v1alpha1_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// defaulted is a device with nothing set, as it is after defaulting.
func defaulted(change func(*v1alpha1.EdgeDevice)) *v1alpha1.EdgeDevice {
	device := &v1alpha1.EdgeDevice{
		Spec: v1alpha1.EdgeDeviceSpec{
			Connectivity: v1alpha1.Connectivity{
				Method: v1alpha1.ConnectivityGRPC,
			},
			Node: v1alpha1.NodeSpec{NamespaceTaint: v1alpha1.NamespaceTaintNoSchedule},
			Pod:  v1alpha1.PodSpec{Capacity: ptr.To[int32](110)},
			Host: v1alpha1.HostSpec{
				AllowExec: ptr.To(true), AllowAttach: ptr.To(true), AllowLog: ptr.To(true), AllowPortForward: ptr.To(true),
			},
		},
		Status: v1alpha1.EdgeDeviceStatus{Phase: v1alpha1.EdgeDevicePending},
	}
	if change != nil {
		change(device)
	}
	return device
}

func TestDefaultsOfEdgeDevice(t *testing.T) {
	for _, tc := range []struct {
		name string
		spec v1alpha1.EdgeDeviceSpec
		want *v1alpha1.EdgeDevice
	}{
		{name: "nothing set", want: defaulted(nil)},
		{
			name: "service",
			spec: v1alpha1.EdgeDeviceSpec{Connectivity: v1alpha1.Connectivity{
				GRPCConfig: &v1alpha1.GRPCConfig{Service: &v1alpha1.ServiceSpec{}},
			}},
			want: defaulted(func(d *v1alpha1.EdgeDevice) {
				d.Spec.Connectivity.GRPCConfig = &v1alpha1.GRPCConfig{Service: &v1alpha1.ServiceSpec{Type: v1alpha1.ServiceTypeClusterIP}}
			}),
		},
		{
			name: "mqtt",
			spec: v1alpha1.EdgeDeviceSpec{Connectivity: v1alpha1.Connectivity{
				Method:     v1alpha1.ConnectivityMQTT,
				MQTTConfig: &v1alpha1.MQTTConfig{Server: "broker:1883"},
			}},
			want: defaulted(func(d *v1alpha1.EdgeDevice) {
				d.Spec.Connectivity.Method = v1alpha1.ConnectivityMQTT
				d.Spec.Connectivity.MQTTConfig = &v1alpha1.MQTTConfig{
					MessageNamespace: "/aranya.arhat.dev",
					Server:           "broker:1883",
					Version:          v1alpha1.MQTTVersion311,
					Transport:        v1alpha1.MQTTTransportTCP,
					ConnectPacket:    v1alpha1.MQTTConnectPacket{CleanSession: ptr.To(true)},
				}
			}),
		},
		{
			name: "mqtt with a will of the user's own",
			spec: v1alpha1.EdgeDeviceSpec{Connectivity: v1alpha1.Connectivity{
				Method: v1alpha1.ConnectivityMQTT,
				MQTTConfig: &v1alpha1.MQTTConfig{
					Server:        "broker:1883",
					ConnectPacket: v1alpha1.MQTTConnectPacket{Will: &v1alpha1.MQTTWill{Topic: "t"}},
				},
			}},
			want: defaulted(func(d *v1alpha1.EdgeDevice) {
				d.Spec.Connectivity.Method = v1alpha1.ConnectivityMQTT
				d.Spec.Connectivity.MQTTConfig = &v1alpha1.MQTTConfig{
					MessageNamespace: "/aranya.arhat.dev",
					Server:           "broker:1883",
					Version:          v1alpha1.MQTTVersion311,
					Transport:        v1alpha1.MQTTTransportTCP,
					ConnectPacket: v1alpha1.MQTTConnectPacket{
						CleanSession: ptr.To(true), Will: &v1alpha1.MQTTWill{Topic: "t"},
					},
				}
			}),
		},
		{
			name: "what is set stays, zero values included",
			spec: v1alpha1.EdgeDeviceSpec{
				Connectivity: v1alpha1.Connectivity{
					HeartbeatInterval: &metav1.Duration{Duration: time.Minute},
					MQTTConfig: &v1alpha1.MQTTConfig{ConnectPacket: v1alpha1.MQTTConnectPacket{
						CleanSession: ptr.To(false), Keepalive: ptr.To[int32](0),
					}},
				},
				Node: v1alpha1.NodeSpec{NamespaceTaint: v1alpha1.NamespaceTaintNone},
				Pod:  v1alpha1.PodSpec{Capacity: ptr.To[int32](1)},
				Host: v1alpha1.HostSpec{AllowExec: ptr.To(false)},
			},
			want: defaulted(func(d *v1alpha1.EdgeDevice) {
				d.Spec.Connectivity.HeartbeatInterval = &metav1.Duration{Duration: time.Minute}
				d.Spec.Connectivity.MQTTConfig = &v1alpha1.MQTTConfig{
					MessageNamespace: "/aranya.arhat.dev",
					Version:          v1alpha1.MQTTVersion311,
					Transport:        v1alpha1.MQTTTransportTCP,
					ConnectPacket:    v1alpha1.MQTTConnectPacket{CleanSession: ptr.To(false), Keepalive: ptr.To[int32](0)},
				}
				d.Spec.Node.NamespaceTaint = v1alpha1.NamespaceTaintNone
				d.Spec.Pod.Capacity = ptr.To[int32](1)
				d.Spec.Host.AllowExec = ptr.To(false)
			}),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := &v1alpha1.EdgeDevice{Spec: tc.spec}
			scheme.Scheme.Default(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("defaults differ (-want +got):\n%s", diff)
			}
			again := got.DeepCopy()
			scheme.Scheme.Default(again)
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("defaulting a second time changed something (-first +second):\n%s", diff)
			}
		})
	}
}

func TestDefaultsOfEnrollmentToken(t *testing.T) {
	token := &v1alpha1.EnrollmentToken{}
	scheme.Scheme.Default(token)
	if got := ptr.Deref(token.Spec.ExpirationSeconds, 0); got != 3600 {
		t.Errorf("expirationSeconds defaults to %d, want 3600", got)
	}
	token.Spec.ExpirationSeconds = ptr.To[int64](60)
	scheme.Scheme.Default(token)
	if got := *token.Spec.ExpirationSeconds; got != 60 {
		t.Errorf("expirationSeconds 60 became %d", got)
	}
}

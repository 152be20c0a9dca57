package validation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// newStored returns a valid EdgeDevice as it is after it was stored.
func newStored(t *testing.T) *aranya.EdgeDevice {
	t.Helper()
	device := newDevice(t)
	device.UID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	device.ResourceVersion = "7"
	return device
}

func TestValidateEdgeDeviceUpdate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(device, old *aranya.EdgeDevice)
		want   []string
	}{
		{name: "nothing", change: func(_, _ *aranya.EdgeDevice) {}},
		{name: "method", change: func(d, _ *aranya.EdgeDevice) { withMQTT(func(*aranya.MQTTConfig) {})(d) }},
		{
			name:   "bad method",
			change: func(d, _ *aranya.EdgeDevice) { d.Spec.Connectivity.Method = "coap" },
			want:   []string{"NotSupported|spec.connectivity.method|"},
		},
		{
			name:   "name",
			change: func(d, _ *aranya.EdgeDevice) { d.Name = "other" },
			want:   []string{"Invalid|metadata.name|immutable"},
		},
		{
			name: "finalizer of a device that would not be valid now",
			change: func(d, old *aranya.EdgeDevice) {
				old.Finalizers = []string{"aranya.arhat.dev/node"}
				d.Spec.Connectivity.Method, old.Spec.Connectivity.Method = "old", "old"
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			device, old := newStored(t), newStored(t)
			tc.change(device, old)
			expect(t, ValidateEdgeDeviceUpdate(device, old), tc.want)
		})
	}
}

func TestValidateEdgeDeviceStatusUpdate(t *testing.T) {
	now := metav1.Now()
	certificate := func(change func(*aranya.CertificateStatus)) func(*aranya.EdgeDeviceStatus) {
		return func(s *aranya.EdgeDeviceStatus) {
			s.Certificate = &aranya.CertificateStatus{
				SerialNumber: "0aF", PublicKeySHA256: strings.Repeat("0a", 32), NotAfter: now,
			}
			change(s.Certificate)
		}
	}
	info := func(info aranya.DeviceInfo) func(*aranya.EdgeDeviceStatus) {
		return func(s *aranya.EdgeDeviceStatus) { s.Device = &info }
	}
	many := corev1.ResourceList{}
	for i := range maxResourceNames + 1 {
		many[corev1.ResourceName(fmt.Sprintf("example.com/r%d", i))] = resource.MustParse("1")
	}
	for _, tc := range []struct {
		name   string
		change func(*aranya.EdgeDeviceStatus)
		want   []string
	}{
		{
			name: "everything",
			change: func(s *aranya.EdgeDeviceStatus) {
				certificate(func(*aranya.CertificateStatus) {})(s)
				info(aranya.DeviceInfo{
					OperatingSystem: "linux", Architecture: "arm64",
					Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
					Capacity:    corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), "example.com/gpu": resource.MustParse("1")},
					Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")},
				})(s)
				s.Phase = aranya.EdgeDeviceOnline
				s.Conditions = []metav1.Condition{{Type: "Connected", Status: metav1.ConditionTrue, Reason: "LinkUp", LastTransitionTime: now}}
				s.Link = &aranya.LinkStatus{Method: "websocket", Since: now, Replica: "aranya-0", RemoteAddress: "192.0.2.2:5555"}
				s.NodeName, s.AgentVersion, s.LastSeen, s.ObservedGeneration = "device-1", "v1.2.3", &now, 3
			},
		},
		{
			name:   "phase",
			change: func(s *aranya.EdgeDeviceStatus) { s.Phase = "Lost" },
			want:   []string{`NotSupported|status.phase|"Pending", "Online", "Offline"`},
		},
		{
			name: "condition without a reason",
			change: func(s *aranya.EdgeDeviceStatus) {
				s.Conditions = []metav1.Condition{{Type: "Connected", Status: metav1.ConditionTrue, LastTransitionTime: now}}
			},
			want: []string{"Required|status.conditions[0].reason|"},
		},
		{
			name: "condition twice",
			change: func(s *aranya.EdgeDeviceStatus) {
				c := metav1.Condition{Type: "Connected", Status: metav1.ConditionTrue, Reason: "LinkUp", LastTransitionTime: now}
				s.Conditions = []metav1.Condition{c, c}
			},
			want: []string{"Duplicate|status.conditions[1]|"},
		},
		{
			name:   "agentVersion",
			change: func(s *aranya.EdgeDeviceStatus) { s.AgentVersion = strings.Repeat("v", maxAgentVersion+1) },
			want:   []string{"TooLong|status.agentVersion|256"},
		},
		{
			name:   "nodeName",
			change: func(s *aranya.EdgeDeviceStatus) { s.NodeName = "A" },
			want:   []string{"Invalid|status.nodeName|"},
		},
		{
			name:   "observedGeneration",
			change: func(s *aranya.EdgeDeviceStatus) { s.ObservedGeneration = -1 },
			want:   []string{"Invalid|status.observedGeneration|"},
		},
		{
			name:   "link method",
			change: func(s *aranya.EdgeDeviceStatus) { s.Link = &aranya.LinkStatus{Method: "pigeon"} },
			want:   []string{`NotSupported|status.link.method|"grpc", "websocket", "mqtt"`},
		},
		{
			name: "link text",
			change: func(s *aranya.EdgeDeviceStatus) {
				long := strings.Repeat("x", maxDeviceString+1)
				s.Link = &aranya.LinkStatus{Method: "grpc", Replica: long, RemoteAddress: long}
			},
			want: []string{"TooLong|status.link.replica|1024", "TooLong|status.link.remoteAddress|1024"},
		},
		{
			name:   "text of the device",
			change: info(aranya.DeviceInfo{KernelVersion: strings.Repeat("6", maxDeviceString+1)}),
			want:   []string{"TooLong|status.device.kernelVersion|1024"},
		},
		{
			name: "long address",
			change: info(aranya.DeviceInfo{Addresses: []corev1.NodeAddress{{
				Type: corev1.NodeAddressType(strings.Repeat("t", maxDeviceString+1)), Address: strings.Repeat("a", maxDeviceString+1),
			}}}),
			want: []string{"TooLong|status.device.addresses[0].type|1024", "TooLong|status.device.addresses[0].address|1024"},
		},
		{
			name: "many addresses",
			change: info(aranya.DeviceInfo{Addresses: func() []corev1.NodeAddress {
				list := make([]corev1.NodeAddress, maxAddresses+1)
				for i := range list {
					list[i] = corev1.NodeAddress{Type: corev1.NodeInternalIP}
				}
				return list
			}()}),
			want: []string{"TooMany|status.device.addresses|64"},
		},
		{
			name:   "negative capacity",
			change: info(aranya.DeviceInfo{Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("-1")}}),
			want:   []string{"Invalid|status.device.capacity[cpu]|negative"},
		},
		{
			name:   "resource name",
			change: info(aranya.DeviceInfo{Allocatable: corev1.ResourceList{"a b": resource.MustParse("1")}}),
			want:   []string{"Invalid|status.device.allocatable[a b]|"},
		},
		{
			name:   "many resources",
			change: info(aranya.DeviceInfo{Capacity: many}),
			want:   []string{"TooMany|status.device.capacity|256"},
		},
		{
			name:   "serial number",
			change: certificate(func(c *aranya.CertificateStatus) { c.SerialNumber = "12:34" }),
			want:   []string{"Invalid|status.certificate.serialNumber|hexadecimal"},
		},
		{
			name:   "public key",
			change: certificate(func(c *aranya.CertificateStatus) { c.PublicKeySHA256 = strings.Repeat("A", 64) }),
			want:   []string{"Invalid|status.certificate.publicKeySHA256|lower case"},
		},
		{
			name:   "certificate without an end",
			change: certificate(func(c *aranya.CertificateStatus) { c.NotAfter = metav1.Time{} }),
			want:   []string{"Required|status.certificate.notAfter|"},
		},
		{
			name:   "time of enrolment",
			change: certificate(func(c *aranya.CertificateStatus) { c.EnrolledAt = &metav1.MicroTime{Time: now.Time} }),
		},
		{
			name:   "no time of enrolment",
			change: certificate(func(c *aranya.CertificateStatus) { c.EnrolledAt = &metav1.MicroTime{} }),
			want:   []string{"Invalid|status.certificate.enrolledAt|a time"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			device, old := newStored(t), newStored(t)
			tc.change(&device.Status)
			expect(t, ValidateEdgeDeviceStatusUpdate(device, old), tc.want)
		})
	}
}

func TestValidateEnrollmentToken(t *testing.T) {
	seconds := func(d time.Duration) *int64 {
		s := int64(d / time.Second)
		return &s
	}
	for _, tc := range []struct {
		name    string
		seconds *int64
		want    []string
	}{
		{name: "a minute", seconds: seconds(time.Minute)},
		{name: "a week", seconds: seconds(7 * 24 * time.Hour)},
		{name: "unset", want: []string{"Required|spec.expirationSeconds|"}},
		{name: "too short", seconds: seconds(59 * time.Second), want: []string{"Invalid|spec.expirationSeconds|from 60 to 604800"}},
		{name: "too long", seconds: seconds(7*24*time.Hour + time.Second), want: []string{"Invalid|spec.expirationSeconds|from 60 to 604800"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := &aranya.EnrollmentToken{Spec: aranya.EnrollmentTokenSpec{ExpirationSeconds: tc.seconds}}
			expect(t, ValidateEnrollmentToken(token), tc.want)
		})
	}
}

package edgedevice

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func TestStrategyBasics(t *testing.T) {
	s := newStrategy(scheme.Scheme)
	if !s.NamespaceScoped() {
		t.Error("EdgeDevices must be namespaced")
	}
	if s.AllowCreateOnUpdate(t.Context()) {
		t.Error("an update must not create an EdgeDevice")
	}
	if !s.AllowUnconditionalUpdate(t.Context()) {
		t.Error("an update without a resource version must be possible, as for other resources")
	}
}

func TestGenerationFollowsTheSpec(t *testing.T) {
	s := newStrategy(scheme.Scheme)
	for _, tc := range []struct {
		name   string
		change func(*aranya.EdgeDevice)
		want   int64
	}{
		{"nothing", func(*aranya.EdgeDevice) {}, 5},
		{"label", func(d *aranya.EdgeDevice) { d.Labels = map[string]string{"a": "b"} }, 5},
		{"status", func(d *aranya.EdgeDevice) { d.Status.AgentVersion = "v2" }, 5},
		{"empty instead of no labels", func(d *aranya.EdgeDevice) { d.Spec.Node.Labels = map[string]string{} }, 5},
		{"generation", func(d *aranya.EdgeDevice) { d.Generation = 9 }, 5},
		{"spec", func(d *aranya.EdgeDevice) { d.Spec.Pod.Capacity = ptr.To[int32](1) }, 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := newDevice(t, "device-1")
			old.Generation = 5
			device := old.DeepCopy()
			tc.change(device)
			s.PrepareForUpdate(t.Context(), device, old)
			if device.Generation != tc.want {
				t.Errorf("generation is %d, want %d", device.Generation, tc.want)
			}
		})
	}
}

func TestResetFields(t *testing.T) {
	s := newStrategy(scheme.Scheme)
	has := func(sets map[fieldpath.APIVersion]*fieldpath.Set, path ...any) bool {
		return sets["aranya.arhat.dev/v1alpha1"].Has(fieldpath.MakePathOrDie(path...))
	}
	if fields := s.GetResetFields(); !has(fields, "status") || has(fields, "spec") {
		t.Errorf("the main resource resets %v, want the status", fields)
	}
	fields := statusStrategy{s}.GetResetFields()
	for _, path := range [][]any{
		{"spec"}, {"metadata"}, {"status", "usage"}, {"status", "link"}, {"status", "traffic"},
	} {
		if !has(fields, path...) {
			t.Errorf("the status does not reset %v", path)
		}
	}
	if has(fields, "status") {
		t.Error("the status resets itself")
	}
}

func TestStatusStrategyKeepsEverythingElse(t *testing.T) {
	old := newDevice(t, "device-1")
	old.Generation = 3
	old.Labels = map[string]string{"a": "b"}
	old.Finalizers = []string{"aranya.arhat.dev/node"}
	device := old.DeepCopy()
	device.Labels, device.Finalizers, device.Generation = nil, nil, 4
	device.Spec.Node.Disabled = true
	device.Status = aranya.EdgeDeviceStatus{
		Phase:        aranya.EdgeDeviceOnline,
		AgentVersion: "v1",
		Usage:        corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		Link: &aranya.LinkStatus{
			Method: "grpc", Replica: "aranya-0", RoundTrip: &metav1.Duration{Duration: time.Second}, BytesIn: 1, BytesOut: 2, Streams: 3,
			Traffic: []aranya.KindTraffic{{Kind: "exec", BytesIn: 1}},
		},
		Traffic: []aranya.DeviceTraffic{{Link: "grpc", Kind: "exec", BytesIn: 1}},
	}
	statusStrategy{newStrategy(scheme.Scheme)}.PrepareForUpdate(t.Context(), device, old)

	want := old.DeepCopy()
	want.Status = aranya.EdgeDeviceStatus{Phase: aranya.EdgeDeviceOnline, AgentVersion: "v1"}
	if diff := cmp.Diff(want, device); diff != "" {
		t.Errorf("prepared status update differs (-want +got):\n%s", diff)
	}
}

// recorder records warnings.
type recorder []string

func (r *recorder) AddWarning(_, text string) { *r = append(*r, text) }

func TestOnlyTheServerWritesCertificates(t *testing.T) {
	before := &aranya.CertificateStatus{SerialNumber: "1"}
	after := &aranya.CertificateStatus{SerialNumber: "2"}
	enrolled := &aranya.CertificateStatus{SerialNumber: "1", EnrolledAt: &metav1.MicroTime{Time: time.Now()}}
	for _, tc := range []struct {
		name           string
		user           user.Info
		old, new, want *aranya.CertificateStatus
		wantWarning    bool
	}{
		{name: "server sets", user: &user.DefaultInfo{Name: user.APIServerUser}, new: after, want: after},
		{name: "server replaces", user: &user.DefaultInfo{Name: user.APIServerUser}, old: before, new: after, want: after},
		{name: "server removes", user: &user.DefaultInfo{Name: user.APIServerUser}, old: before},
		{name: "user sets", user: &user.DefaultInfo{Name: "admin"}, new: after, wantWarning: true},
		{name: "user replaces", user: &user.DefaultInfo{Name: "admin"}, old: before, new: after, want: before, wantWarning: true},
		{name: "user removes", user: &user.DefaultInfo{Name: "admin"}, old: before, want: before, wantWarning: true},
		{name: "user removes the time of enrolment", user: &user.DefaultInfo{Name: "admin"}, old: enrolled, new: before, want: enrolled, wantWarning: true},
		{name: "user keeps", user: &user.DefaultInfo{Name: "admin"}, old: before, new: before, want: before},
		{name: "nobody", old: before, new: after, want: before, wantWarning: true},
		{
			name: "administrator", user: &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup}},
			old: before, new: after, want: before, wantWarning: true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings := &recorder{}
			ctx := warning.WithWarningRecorder(t.Context(), warnings)
			if tc.user != nil {
				ctx = genericapirequest.WithUser(ctx, tc.user)
			}
			old, device := newDevice(t, "device-1"), newDevice(t, "device-1")
			old.Status.Certificate, device.Status.Certificate = tc.old, tc.new
			statusStrategy{newStrategy(scheme.Scheme)}.PrepareForUpdate(ctx, device, old)
			if diff := cmp.Diff(tc.want, device.Status.Certificate); diff != "" {
				t.Errorf("certificate differs (-want +got):\n%s", diff)
			}
			if got := len(*warnings) > 0; got != tc.wantWarning {
				t.Errorf("warnings are %q, want one: %t", *warnings, tc.wantWarning)
			}
		})
	}
}

// The first certificate makes a device enrolled in the same write.
func TestFirstCertificateEnrolls(t *testing.T) {
	ctx := genericapirequest.WithUser(t.Context(), &user.DefaultInfo{Name: user.APIServerUser})
	old, device := newDevice(t, "device-1"), newDevice(t, "device-1")
	newStrategy(scheme.Scheme).PrepareForCreate(ctx, old)
	old.DeepCopyInto(device)
	device.Status.Certificate = &aranya.CertificateStatus{SerialNumber: "1"}
	statusStrategy{newStrategy(scheme.Scheme)}.PrepareForUpdate(ctx, device, old)
	if !meta.IsStatusConditionTrue(device.Status.Conditions, v1alpha1.EdgeDeviceEnrolled) || device.Status.Phase != aranya.EdgeDeviceOffline {
		t.Errorf("an enrolled device has the status %+v", device.Status)
	}

	// Renewals leave alone what the controllers have made of it since.
	device.DeepCopyInto(old)
	device.Status.Phase, old.Status.Phase = aranya.EdgeDeviceOnline, aranya.EdgeDeviceOnline
	device.Status.Certificate = &aranya.CertificateStatus{SerialNumber: "2"}
	statusStrategy{newStrategy(scheme.Scheme)}.PrepareForUpdate(ctx, device, old)
	if device.Status.Phase != aranya.EdgeDeviceOnline {
		t.Errorf("a renewal made the device %s", device.Status.Phase)
	}
}

func TestWarnings(t *testing.T) {
	mqtt := func(d *aranya.EdgeDevice) *aranya.MQTTConfig {
		d.Spec.Connectivity.MQTTConfig = &aranya.MQTTConfig{}
		return d.Spec.Connectivity.MQTTConfig
	}
	for _, tc := range []struct {
		name   string
		change func(*aranya.EdgeDevice)
		want   string
	}{
		{name: "none", change: func(*aranya.EdgeDevice) {}},
		{
			name: "password in clear",
			change: func(d *aranya.EdgeDevice) {
				mqtt(d).ConnectPacket.Password = &aranya.LocalSecretReference{Name: "s"}
			},
			want: "spec.connectivity.mqttConfig.tlsSecretRef: ",
		},
		{
			name: "password under TLS",
			change: func(d *aranya.EdgeDevice) {
				c := mqtt(d)
				c.ConnectPacket.Password = &aranya.LocalSecretReference{Name: "s"}
				c.TLSSecretRef = &aranya.LocalSecretReference{Name: "t"}
			},
		},
		{
			name: "settings of a Node that there is not",
			change: func(d *aranya.EdgeDevice) {
				d.Spec.Node = aranya.NodeSpec{Disabled: true, Labels: map[string]string{"a": "b"}}
			},
			want: "spec.node: ",
		},
		{name: "no Node", change: func(d *aranya.EdgeDevice) { d.Spec.Node.Disabled = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			device := newDevice(t, "device-1")
			tc.change(device)
			s := newStrategy(scheme.Scheme)
			for when, got := range map[string][]string{
				"create": s.WarningsOnCreate(context.Background(), device),
				"update": s.WarningsOnUpdate(context.Background(), device, device),
			} {
				if tc.want == "" && len(got) > 0 || tc.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tc.want)) {
					t.Errorf("warnings on %s are %q, want %q", when, got, tc.want)
				}
				for _, text := range got {
					if len(text) > 120 {
						t.Errorf("warning of %d characters, kubectl wants 120: %s", len(text), text)
					}
				}
			}
		})
	}
}

package v1alpha1_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/apis/aranya/validation"
)

func TestFieldLabels(t *testing.T) {
	gvk := v1alpha1.SchemeGroupVersion.WithKind("EdgeDevice")
	for _, label := range []string{
		"metadata.name", "metadata.namespace", "spec.connectivity.method", "status.phase", "status.agentVersion",
	} {
		gotLabel, gotValue, err := scheme.Scheme.ConvertFieldLabel(gvk, label, "x")
		if err != nil || gotLabel != label || gotValue != "x" {
			t.Errorf("ConvertFieldLabel(%q) = %q, %q, %v", label, gotLabel, gotValue, err)
		}
	}
	_, _, err := scheme.Scheme.ConvertFieldLabel(gvk, "spec.host", "x")
	if err == nil || !strings.Contains(err.Error(), "status.phase") {
		t.Errorf("an unknown label must be refused with the list of known ones, got: %v", err)
	}
}

// TestOptionsFromQuery decodes query parameters as the API server does for the connect subresources.
func TestOptionsFromQuery(t *testing.T) {
	for _, tc := range []struct {
		query string
		into  runtime.Object
		want  runtime.Object
	}{
		{
			query: "command=sh&command=-c&command=a+b%26c&stdin=true&stdout=1&stderr=false&tty=true&pod=ns/p&container=c",
			into:  &aranya.EdgeDeviceExecOptions{},
			want: &aranya.EdgeDeviceExecOptions{
				Command: []string{"sh", "-c", "a b&c"}, Stdin: true, Stdout: true, TTY: true, Pod: "ns/p", Container: "c",
			},
		},
		{
			query: "stdout=true&pod=p",
			into:  &aranya.EdgeDeviceAttachOptions{},
			want:  &aranya.EdgeDeviceAttachOptions{Stdout: true, Pod: "p"},
		},
		{
			query: "unit=ssh.service&follow=true&sinceTime=2026-01-02T03:04:05Z&timestamps=true&tailLines=10&limitBytes=20",
			into:  &aranya.EdgeDeviceLogOptions{},
			want: &aranya.EdgeDeviceLogOptions{
				Unit: "ssh.service", Follow: true, Timestamps: true,
				SinceTime: &metav1.Time{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
				TailLines: ptr.To[int64](10), LimitBytes: ptr.To[int64](20),
			},
		},
		{
			query: "path=/var/log/syslog&sinceSeconds=5&previous=true",
			into:  &aranya.EdgeDeviceLogOptions{},
			want:  &aranya.EdgeDeviceLogOptions{Path: "/var/log/syslog", SinceSeconds: ptr.To[int64](5), Previous: true},
		},
		{
			query: "ports=80&ports=443&host=printer.lan",
			into:  &aranya.EdgeDevicePortForwardOptions{},
			want:  &aranya.EdgeDevicePortForwardOptions{Ports: []int32{80, 443}, Host: "printer.lan"},
		},
		{
			query: "path=/metrics",
			into:  &aranya.EdgeDeviceProxyOptions{},
			want:  &aranya.EdgeDeviceProxyOptions{Path: "/metrics"},
		},
	} {
		t.Run(tc.query, func(t *testing.T) {
			values, err := url.ParseQuery(tc.query)
			if err != nil {
				t.Fatal(err)
			}
			if err := scheme.ParameterCodec.DecodeParameters(values, v1alpha1.SchemeGroupVersion, tc.into); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, tc.into); diff != "" {
				t.Errorf("options differ (-want +got):\n%s", diff)
			}
		})
	}
}

// optionKinds are the internal options and their validation.
var optionKinds = []struct {
	empty    func() runtime.Object
	validate func(runtime.Object) bool
}{
	{
		func() runtime.Object { return &aranya.EdgeDeviceExecOptions{} },
		func(o runtime.Object) bool {
			return len(validation.ValidateExecOptions(o.(*aranya.EdgeDeviceExecOptions))) == 0
		},
	},
	{
		func() runtime.Object { return &aranya.EdgeDeviceAttachOptions{} },
		func(o runtime.Object) bool {
			return len(validation.ValidateAttachOptions(o.(*aranya.EdgeDeviceAttachOptions))) == 0
		},
	},
	{
		func() runtime.Object { return &aranya.EdgeDeviceLogOptions{} },
		func(o runtime.Object) bool {
			return len(validation.ValidateLogOptions(o.(*aranya.EdgeDeviceLogOptions))) == 0
		},
	},
	{
		func() runtime.Object { return &aranya.EdgeDevicePortForwardOptions{} },
		func(o runtime.Object) bool {
			return len(validation.ValidatePortForwardOptions(o.(*aranya.EdgeDevicePortForwardOptions))) == 0
		},
	},
	{
		func() runtime.Object { return &aranya.EdgeDeviceProxyOptions{} },
		func(runtime.Object) bool { return true },
	},
}

// FuzzOptionsFromQuery decodes and validates arbitrary queries. Whatever is accepted must mean the same
// to the next server that it is sent to: encoded and decoded again it is unchanged.
func FuzzOptionsFromQuery(f *testing.F) {
	for _, query := range []string{
		"command=ls&stdout=true&tty=true", "stdin=1&pod=ns/name&container=c", "ports=80&ports=65536&host=[::1]",
		"path=/var/log/../x&tailLines=-1", "unit=-x&sinceTime=2026-01-02T03:04:05Z&limitBytes=9223372036854775808",
		"sinceSeconds=1&previous=maybe&follow=", "%00=%ff&command=%00",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, kind := range optionKinds {
			first := kind.empty()
			if err := scheme.ParameterCodec.DecodeParameters(values, v1alpha1.SchemeGroupVersion, first); err != nil {
				continue
			}
			if !kind.validate(first) || !timeFitsQuery(first) {
				continue
			}
			encoded, err := scheme.ParameterCodec.EncodeParameters(first, v1alpha1.SchemeGroupVersion)
			if err != nil {
				t.Fatalf("%T accepted from %q cannot be encoded: %v", first, query, err)
			}
			second := kind.empty()
			if err := scheme.ParameterCodec.DecodeParameters(encoded, v1alpha1.SchemeGroupVersion, second); err != nil {
				t.Fatalf("%T from %q, encoded as %q, cannot be decoded: %v", first, query, encoded.Encode(), err)
			}
			if !apiequality.Semantic.DeepEqual(first, second) {
				t.Fatalf("%T from %q changed on the way:\n%s", first, query, cmp.Diff(first, second))
			}
		}
	})
}

// timeFitsQuery leaves out times that RFC 3339 with whole seconds in UTC cannot carry.
func timeFitsQuery(obj runtime.Object) bool {
	options, ok := obj.(*aranya.EdgeDeviceLogOptions)
	if !ok || options.SinceTime == nil {
		return true
	}
	options.SinceTime.Time = options.SinceTime.UTC().Truncate(time.Second)
	year := options.SinceTime.Year()
	return year > 1 && year < 9999
}

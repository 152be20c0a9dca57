package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func TestPrintTop(t *testing.T) {
	devices := []v1alpha1.EdgeDevice{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "away"}},
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "here"},
			Status: v1alpha1.EdgeDeviceStatus{
				Usage: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
				Device: &v1alpha1.DeviceInfo{Allocatable: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("128Mi")}},
				Link: &v1alpha1.LinkStatus{Method: "grpc", RoundTrip: &metav1.Duration{Duration: 1234567 * time.Nanosecond}, BytesIn: 100, BytesOut: 20 << 10},
			},
		},
	}
	var out bytes.Buffer
	if err := printTop(&out, devices, true, false); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"NAMESPACE NAME CPU(cores) CPU(%) MEMORY(bytes) MEMORY(%) LINK ROUND-TRIP IN OUT",
		"edge away <unknown> <unknown> <unknown> <unknown> <none> <unknown> <unknown> <unknown>",
		"edge here 250m 25% 64Mi 50% grpc 1.23ms 100 20Ki",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

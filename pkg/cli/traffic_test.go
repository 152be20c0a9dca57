package cli

import (
	"bytes"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func TestPrintTraffic(t *testing.T) {
	devices := []v1alpha1.EdgeDevice{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "away"}},
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "here"},
			Status: v1alpha1.EdgeDeviceStatus{
				Link: &v1alpha1.LinkStatus{Method: "mqtt", Traffic: []v1alpha1.KindTraffic{
					{Kind: "control", BytesIn: 100, BytesOut: 20 << 10}, {Kind: "exec", BytesIn: 3, BytesOut: 4}}},
				Traffic: []v1alpha1.DeviceTraffic{
					{Link: "grpc", Kind: "exec", BytesIn: 5, BytesOut: 6},
					{Link: "mqtt", Kind: "control", BytesIn: 7, BytesOut: 30 << 20},
					{Link: "mqtt", Kind: "pods", BytesIn: 8, BytesOut: 9},
				},
			},
		},
	}
	for _, tc := range []struct {
		withNamespace, noHeaders bool
		want                     []string
	}{
		{want: []string{
			"NAME LINK KIND IN OUT TOTAL-IN TOTAL-OUT",
			"here mqtt control 100 20Ki 7 30Mi",
			"here mqtt exec 3 4 <unknown> <unknown>",
			"here mqtt pods 0 0 8 9",
			"here grpc exec 0 0 5 6",
		}},
		{withNamespace: true, noHeaders: true, want: []string{
			"edge here mqtt control 100 20Ki 7 30Mi",
			"edge here mqtt exec 3 4 <unknown> <unknown>",
			"edge here mqtt pods 0 0 8 9",
			"edge here grpc exec 0 0 5 6",
		}},
	} {
		var out bytes.Buffer
		if err := printTraffic(&out, devices, tc.withNamespace, tc.noHeaders); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
		if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
			t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
		}
	}
}

package cli

import (
	"bytes"
	"fmt"
	"net/http"
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

// What is listed page by page is complete also if the server has forgotten the first page before the last is asked for.
func TestTopLists(t *testing.T) {
	const first, second = `{"metadata":{"name":"a"}}`, `{"metadata":{"name":"b"}}`
	list := func(next string, items ...string) string {
		return fmt.Sprintf(`{"kind":"EdgeDeviceList","apiVersion":"aranya.arhat.dev/v1alpha1","metadata":{"continue":%q},"items":[%s]}`, next, strings.Join(items, ","))
	}
	const expired = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`
	for name, answer := range map[string]func(limit, next string) (int, string){
		"in pages": func(_, next string) (int, string) {
			if next == "" {
				return http.StatusOK, list("b", first)
			}
			return http.StatusOK, list("", second)
		},
		"again": func(limit, next string) (int, string) {
			switch {
			case next != "":
				return http.StatusGone, expired
			case limit != "":
				return http.StatusOK, list("b", first)
			}
			return http.StatusOK, list("", first, second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := run(t, func(w http.ResponseWriter, r *http.Request) {
				query := r.URL.Query()
				if query.Get("labelSelector") != "x=y" {
					t.Errorf("asked for %s", r.URL)
				}
				status, body := answer(query.Get("limit"), query.Get("continue"))
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			}, "top", "-l", "x=y", "--no-headers")
			lines := strings.Split(strings.TrimSpace(stdout), "\n")
			if code != 0 || len(lines) != 2 || !strings.HasPrefix(lines[0], "a ") || !strings.HasPrefix(lines[1], "b ") {
				t.Errorf("code %d, %q, %q", code, stdout, stderr)
			}
		})
	}
}

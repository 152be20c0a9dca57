package kubelet

import (
	"encoding/json"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// FuzzSummary has a device send what it likes for its statistics.
func FuzzSummary(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"node": null, "pods": null}`,
		`{"node": {"nodeName": "another", "cpu": {"time": "2026-01-02T03:04:05Z", "usageCoreNanoSeconds": 1}, "memory": {"workingSetBytes": 2}, "swap": {"swapUsageBytes": 3}},
		"pods": [{"podRef": {"name": "web", "namespace": "default", "uid": "u"}, "cpu": {"usageCoreNanoSeconds": 1},
			"containers": [{"name": "main", "startTime": "2026-01-02T03:04:05Z", "cpu": {"usageCoreNanoSeconds": 1}}, {"name": "main", "cpu": {"usageCoreNanoSeconds": 2}}, {"name": "x"}]},
			{"podRef": {"name": "web", "namespace": "default", "uid": "u"}}, {"podRef": {"name": "other"}}]}`,
	} {
		f.Add([]byte(seed))
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		summary := &stats.Summary{}
		if json.Unmarshal(data, summary) != nil {
			return
		}
		confine(summary, "device-1", "edge", []*corev1.Pod{pod})
		if summary.Node.NodeName != "device-1" || len(summary.Pods) > 1 || (len(summary.Pods) == 1 && summary.Pods[0].PodRef.Name != pod.Name) {
			t.Errorf("summary %+v", summary)
		}
		if _, err := json.Marshal(summary); err != nil {
			t.Errorf("it cannot be passed on: %v", err)
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(resourceMetrics{summary})
		if _, err := registry.Gather(); err != nil {
			t.Errorf("the metrics: %v", err)
		}
	})
}

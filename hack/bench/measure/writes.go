package measure

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// Revision is the revision of the etcd behind a resource: the difference between two is the number of
// write transactions between them, whoever wrote and whatever was written.
func Revision(ctx context.Context, client metadata.Interface, resource schema.GroupVersionResource) (int64, error) {
	// Without a resource version the list is read from etcd, not from a cache that may lag behind.
	list, err := client.Resource(resource).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("read the revision of etcd: %w", err)
	}
	return strconv.ParseInt(list.ResourceVersion, 10, 64)
}

// Metrics are the metrics of a component at one moment.
type Metrics map[string]*dto.MetricFamily

// Scrape reads /metrics of an API server.
func Scrape(ctx context.Context, client rest.Interface) (Metrics, error) {
	data, err := client.Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	return families, nil
}

// Sum adds up a counter or gauge over all of its series that have these labels, each with one of the
// values given.
func (m Metrics) Sum(name string, labels map[string][]string) float64 {
	family := m[name]
	if family == nil {
		return 0
	}
	var sum float64
	for _, metric := range family.GetMetric() {
		if matches(metric, labels) {
			sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + metric.GetUntyped().GetValue()
		}
	}
	return sum
}

func matches(metric *dto.Metric, labels map[string][]string) bool {
	for name, values := range labels {
		found := false
		for _, pair := range metric.GetLabel() {
			if pair.GetName() != name {
				continue
			}
			for _, value := range values {
				found = found || pair.GetValue() == value
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// WriteVerbs are the verbs of apiserver_request_total that write.
var WriteVerbs = []string{"POST", "PUT", "PATCH", "DELETE", "DELETECOLLECTION", "APPLY"}

// Writes is the number of requests that wrote, as the API server counts them.
func (m Metrics) Writes() float64 {
	return m.Sum("apiserver_request_total", map[string][]string{"verb": WriteVerbs})
}

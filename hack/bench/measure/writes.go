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

// Gauge is the value of a gauge without labels.
func (m Metrics) Gauge(name string) (float64, error) {
	family := m[name]
	if family.GetType() != dto.MetricType_GAUGE || len(family.GetMetric()) != 1 {
		return 0, fmt.Errorf("there is no gauge %s among the metrics, or it has labels", name)
	}
	return family.GetMetric()[0].GetGauge().GetValue(), nil
}

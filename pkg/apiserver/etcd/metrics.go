package etcd

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-base/metrics/legacyregistry"
)

// served are the metrics of the embedded etcd that are served with those of the API server: how fast its disk is, and
// how full its database. There are hundreds more.
var served = sets.New(
	"etcd_disk_wal_fsync_duration_seconds",
	"etcd_disk_backend_commit_duration_seconds",
	"etcd_mvcc_db_total_size_in_bytes",
	"etcd_mvcc_db_total_size_in_use_in_bytes",
	"etcd_server_quota_backend_bytes",
)

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.RawMustRegister(collector{prometheus.DefaultGatherer})
})

// collector passes on what is served of the registry that etcd has its metrics in.
type collector struct{ from prometheus.Gatherer }

// Describe implements prometheus.Collector. What there is shows only when it is collected.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	families, _ := c.from.Gather() // an error is about other metrics, or some of these are missing
	for _, family := range families {
		if !served.Has(family.GetName()) {
			continue
		}
		desc := prometheus.NewDesc(family.GetName(), family.GetHelp(), nil, nil)
		for _, m := range family.GetMetric() {
			ch <- gathered{desc, m}
		}
	}
}

// gathered is a metric of another registry.
type gathered struct {
	desc   *prometheus.Desc
	metric *dto.Metric
}

// Desc implements prometheus.Metric.
func (g gathered) Desc() *prometheus.Desc { return g.desc }

// Write implements prometheus.Metric.
func (g gathered) Write(to *dto.Metric) error {
	to.Label, to.Gauge, to.Counter, to.Histogram = g.metric.Label, g.metric.Gauge, g.metric.Counter, g.metric.Histogram
	return nil
}

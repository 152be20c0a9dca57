package measure

import (
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func TestGauge(t *testing.T) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	metrics, err := parser.TextToMetricFamilies(strings.NewReader("# TYPE plain gauge\nplain 7\n# TYPE total counter\ntotal 7\n# TYPE split gauge\nsplit{a=\"1\"} 7\nsplit{a=\"2\"} 7\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Metrics(metrics).Gauge("plain"); err != nil || got != 7 {
		t.Errorf("plain: %v, %v", got, err)
	}
	for _, name := range []string{"total", "split", "missing"} {
		if got, err := Metrics(metrics).Gauge(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

package apiserver

import (
	"runtime"
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // rest_client_*: requests to the main API server

	"arhat.dev/aranya/pkg/version"
)

// buildInfo stands in for kubernetes_build_info, which would tell a version of the Kubernetes libraries.
var buildInfo = metrics.NewGaugeVec(&metrics.GaugeOpts{
	Name: "aranya_build_info", StabilityLevel: metrics.ALPHA,
	Help: "Always 1. The labels say which version of aranya this is, and by which version of Go it was built.",
}, []string{"git_version", "go_version"})

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(buildInfo)
	buildInfo.WithLabelValues(version.String(), runtime.Version()).Set(1)
})

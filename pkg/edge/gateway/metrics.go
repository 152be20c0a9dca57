package gateway

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Reasons for which a connection or call is refused, as in the metric.
const (
	refusedHandshake = "handshake"
	refusedAnonymous = "anonymous"
	refusedExpired   = "expired"
	refusedGone      = "gone"
	refusedDeleting  = "deleting"
	refusedUID       = "uid"
	refusedForgotten = "forgotten"
	refusedKey       = "key"
	refusedRate      = "rate"
	refusedError     = "error"
	refusedLink      = "link"
)

var (
	sessionCount = metrics.NewGauge(&metrics.GaugeOpts{
		Name: "aranya_gateway_sessions", StabilityLevel: metrics.ALPHA,
		Help: "Devices that are connected to this replica.",
	})
	parkedCount = metrics.NewGauge(&metrics.GaugeOpts{
		Name: "aranya_gateway_parked", StabilityLevel: metrics.ALPHA,
		Help: "Devices of these whose links are parked: silent ones that have no connection until there is something to say.",
	})
	streamCount = metrics.NewGauge(&metrics.GaugeOpts{
		Name: "aranya_gateway_streams", StabilityLevel: metrics.ALPHA,
		Help: "Open exec, attach, log, port-forward and stats streams.",
	})
	streamsTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "aranya_gateway_streams_total", StabilityLevel: metrics.ALPHA,
		Help: "Streams that devices were asked to open, by kind and by whether they began.",
	}, []string{"kind", "result"})
	bytesTotal = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "aranya_gateway_bytes_total", StabilityLevel: metrics.ALPHA,
		Help: "Bytes exchanged with connected devices, TLS included, by what they were for. Updated at each heartbeat.",
	}, []string{"direction", "kind"})
	enrolments = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "aranya_gateway_enrolments_total", StabilityLevel: metrics.ALPHA,
		Help: "Attempts to enrol, by gRPC code.",
	}, []string{"code"})
	renewals = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "aranya_gateway_renewals_total", StabilityLevel: metrics.ALPHA,
		Help: "Attempts to renew a certificate, by gRPC code.",
	}, []string{"code"})
	refused = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "aranya_gateway_refused_total", StabilityLevel: metrics.ALPHA,
		Help: "Connections and calls that were refused, by reason.",
	}, []string{"reason"})
	roundTrip = metrics.NewHistogram(&metrics.HistogramOpts{
		Name: "aranya_gateway_round_trip_seconds", StabilityLevel: metrics.ALPHA,
		Help:    "Round-trip times to devices.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
)

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(sessionCount, parkedCount, streamCount, streamsTotal, bytesTotal, enrolments, renewals, refused, roundTrip)
})

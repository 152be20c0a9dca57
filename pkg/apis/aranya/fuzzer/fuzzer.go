// Package fuzzer fills API objects with random values for round-trip tests. Fields that have a default
// are never left empty, because decoding would fill them.
package fuzzer

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/randfill"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// Funcs returns the functions that fill the types of this API group.
func Funcs(serializer.CodecFactory) []any {
	return []any{
		fillConnectivity, fillService, fillMQTT, fillConnectPacket, fillNode, fillPod, fillHost, fillStatus, fillToken,
	}
}

func fillConnectivity(c *aranya.Connectivity, r randfill.Continue) {
	r.FillNoCustom(c)
	setIfEmpty(&c.Method, aranya.ConnectivityGRPC)
	if c.HeartbeatInterval != nil {
		c.HeartbeatInterval.Duration = time.Duration(r.Int31()) * time.Millisecond
	}
}

func fillService(s *aranya.ServiceSpec, r randfill.Continue) {
	r.FillNoCustom(s)
	setIfEmpty(&s.Type, aranya.ServiceTypeNodePort)
}

func fillMQTT(c *aranya.MQTTConfig, r randfill.Continue) {
	r.FillNoCustom(c)
	setIfEmpty(&c.MessageNamespace, "/random")
	setIfEmpty(&c.Version, aranya.MQTTVersion311)
	setIfEmpty(&c.Transport, aranya.MQTTTransportWebSocket)
}

func fillConnectPacket(p *aranya.MQTTConnectPacket, r randfill.Continue) {
	r.FillNoCustom(p)
	p.CleanSession = ptr.To(r.Bool())
	p.Keepalive = ptr.To(r.Int31())
}

func fillNode(n *aranya.NodeSpec, r randfill.Continue) {
	r.FillNoCustom(n)
	setIfEmpty(&n.NamespaceTaint, aranya.NamespaceTaintNone)
}

func fillPod(p *aranya.PodSpec, r randfill.Continue) {
	r.FillNoCustom(p)
	p.Capacity = ptr.To(r.Int31())
}

func fillHost(h *aranya.HostSpec, r randfill.Continue) {
	for _, allow := range []**bool{&h.AllowExec, &h.AllowAttach, &h.AllowLog, &h.AllowPortForward} {
		*allow = ptr.To(r.Bool())
	}
}

func fillStatus(s *aranya.EdgeDeviceStatus, r randfill.Continue) {
	r.FillNoCustom(s)
	setIfEmpty(&s.Phase, aranya.EdgeDeviceOnline)
	if s.Link != nil && s.Link.RoundTrip != nil {
		s.Link.RoundTrip.Duration = time.Duration(r.Int31()) * time.Microsecond
	}
}

func fillToken(t *aranya.EnrollmentTokenSpec, r randfill.Continue) {
	t.ExpirationSeconds = ptr.To(r.Int63())
}

func setIfEmpty[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

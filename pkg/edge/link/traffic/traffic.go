// Package traffic counts what the calls of a link carry, by what it is for. Both ends use it: the gateway for
// each connection, a device over all of its links. What the network adds below the calls is not seen here, but
// follows from what link.Conn and Link.Conn count.
package traffic

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc/stats"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// kinds is how many kinds there are, with the zero one, which means nothing.
var kinds = len(edgeapi.TrafficKind_name)

// maxKinds is a size that kinds fit in; a test sees to it.
const maxKinds = 10

// Sum is a number of bytes in each direction, as seen by who counts.
type Sum struct{ Received, Sent int64 }

// Sums are by kind.
type Sums [maxKinds]Sum

// Total adds all kinds up.
func (s *Sums) Total() (total Sum) {
	for i := range s {
		total.Received += s[i].Received
		total.Sent += s[i].Sent
	}
	return total
}

// WithOverhead sets what the calls do not explain of the bytes that the network carried. Calls are counted
// when a message is complete, the network earlier or later than that, so that it may be off by what is under way.
func (s Sums) WithOverhead(network Sum) Sums {
	calls := s.Total()
	s[edgeapi.TrafficKind_TRAFFIC_OVERHEAD] = Sum{max(network.Received-calls.Received, 0), max(network.Sent-calls.Sent, 0)}
	return s
}

// Counters count by kind. The zero value is ready for use.
type Counters struct {
	received, sent [maxKinds]atomic.Int64
}

// Sums is what was counted so far.
func (c *Counters) Sums() (s Sums) {
	for i := range s {
		s[i] = Sum{c.received[i].Load(), c.sent[i].Load()}
	}
	return s
}

// Add counts what others have counted.
func (c *Counters) Add(s Sums) {
	for i := range s {
		c.received[i].Add(s[i].Received)
		c.sent[i].Add(s[i].Sent)
	}
}

// call is what is counted of one call.
type call struct {
	counters *Counters
	kind     atomic.Int32
}

type callKey struct{}

// Context returns the context of a call that is counted, by Handler, as of this kind. The messages of the control
// stream are told apart by themselves.
func (c *Counters) Context(ctx context.Context, kind edgeapi.TrafficKind) context.Context {
	counted := &call{counters: c}
	counted.kind.Store(int32(kind))
	return context.WithValue(ctx, callKey{}, counted)
}

// SetKind says of which kind the rest of a call is.
func SetKind(ctx context.Context, kind edgeapi.TrafficKind) {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		c.kind.Store(int32(kind))
	}
}

// Handler has gRPC count the calls whose contexts are made by Counters.Context.
type Handler struct{}

var _ stats.Handler = Handler{}

// TagRPC implements stats.Handler.
func (Handler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (Handler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.InPayload:
		if c, ok := ctx.Value(callKey{}).(*call); ok {
			c.counters.received[c.kindOf(s.Payload)].Add(int64(s.WireLength))
		}
	case *stats.OutPayload:
		if c, ok := ctx.Value(callKey{}).(*call); ok {
			c.counters.sent[c.kindOf(s.Payload)].Add(int64(s.WireLength))
		}
	}
}

// TagConn implements stats.Handler.
func (Handler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (Handler) HandleConn(context.Context, stats.ConnStats) {}

func (c *call) kindOf(payload any) edgeapi.TrafficKind {
	switch m := payload.(type) {
	case *edgeapi.DeviceMessage:
		switch m.GetMessage().(type) {
		case *edgeapi.DeviceMessage_PodStatus, *edgeapi.DeviceMessage_PodRemoved, *edgeapi.DeviceMessage_Event,
			*edgeapi.DeviceMessage_StaticPods:
			return edgeapi.TrafficKind_TRAFFIC_PODS
		}
	case *edgeapi.ServerMessage:
		switch m.GetMessage().(type) {
		case *edgeapi.ServerMessage_DesiredPods, *edgeapi.ServerMessage_RunPod, *edgeapi.ServerMessage_UpdateVolumes,
			*edgeapi.ServerMessage_DeletePod:
			return edgeapi.TrafficKind_TRAFFIC_PODS
		}
	}
	return edgeapi.TrafficKind(c.kind.Load())
}

// KindOf is the kind of the stream that is asked for.
func KindOf(req *edgeapi.OpenStream) edgeapi.TrafficKind {
	switch req.GetRequest().(type) {
	case *edgeapi.OpenStream_Exec:
		return edgeapi.TrafficKind_TRAFFIC_EXEC
	case *edgeapi.OpenStream_Attach:
		return edgeapi.TrafficKind_TRAFFIC_ATTACH
	case *edgeapi.OpenStream_Log:
		return edgeapi.TrafficKind_TRAFFIC_LOG
	case *edgeapi.OpenStream_Dial:
		return edgeapi.TrafficKind_TRAFFIC_PORTFORWARD
	case *edgeapi.OpenStream_Stats:
		return edgeapi.TrafficKind_TRAFFIC_STATS
	default:
		return edgeapi.TrafficKind_TRAFFIC_CONTROL
	}
}

// Name is a kind as the API shows it, empty for one that this version does not know.
func Name(kind edgeapi.TrafficKind) string {
	if kind == edgeapi.TrafficKind_TRAFFIC_UNKNOWN || !slices.Contains(Kinds(), kind) {
		return ""
	}
	return names[kind]
}

var names = func() (all [maxKinds]string) {
	for kind := range edgeapi.TrafficKind(kinds) {
		all[kind] = strings.ToLower(strings.TrimPrefix(kind.String(), "TRAFFIC_"))
	}
	return all
}()

var allKinds = func() (all []edgeapi.TrafficKind) {
	for kind := edgeapi.TrafficKind(1); int(kind) < kinds; kind++ {
		all = append(all, kind)
	}
	return all
}()

// Kinds are all kinds, in the order in which they are shown. Not to be modified.
func Kinds() []edgeapi.TrafficKind { return allKinds }

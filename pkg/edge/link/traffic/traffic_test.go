package traffic

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/stats"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	control = edgeapi.TrafficKind_TRAFFIC_CONTROL
	pods    = edgeapi.TrafficKind_TRAFFIC_PODS
	exec    = edgeapi.TrafficKind_TRAFFIC_EXEC
	rest    = edgeapi.TrafficKind_TRAFFIC_OVERHEAD
)

func TestKinds(t *testing.T) {
	if kinds > maxKinds {
		t.Fatalf("maxKinds is %d, but there are %d", maxKinds, kinds)
	}
	names := []string{"control", "pods", "exec", "attach", "log", "portforward", "stats", "overhead"}
	var got []string
	for _, kind := range Kinds() {
		got = append(got, Name(kind))
	}
	if !slices.Equal(got, names) {
		t.Errorf("the kinds are %q, want %q", got, names)
	}
	for _, kind := range []edgeapi.TrafficKind{-1, 0, edgeapi.TrafficKind(kinds)} {
		if name := Name(kind); name != "" {
			t.Errorf("kind %d has the name %q", kind, name)
		}
	}
}

func TestKindOf(t *testing.T) {
	for want, req := range map[string]*edgeapi.OpenStream{
		"exec":        {Request: &edgeapi.OpenStream_Exec{}},
		"attach":      {Request: &edgeapi.OpenStream_Attach{}},
		"log":         {Request: &edgeapi.OpenStream_Log{}},
		"portforward": {Request: &edgeapi.OpenStream_Dial{}},
		"stats":       {Request: &edgeapi.OpenStream_Stats{}},
		"control":     {},
	} {
		if got := Name(KindOf(req)); got != want {
			t.Errorf("%T is counted as %q, want %q", req.GetRequest(), got, want)
		}
	}
}

func TestMessagesAreToldApart(t *testing.T) {
	for _, tc := range []struct {
		payload any
		want    edgeapi.TrafficKind
	}{
		{&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{}}, control},
		{&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Pong{}}, control},
		{&edgeapi.DeviceMessage{}, control},
		{&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_PodStatus{}}, pods},
		{&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_PodRemoved{}}, pods},
		{&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{}}, pods},
		{&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_StaticPods{}}, pods},
		{&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Ping{}}, control},
		{&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_OpenStream{}}, control},
		{&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_RunPod{}}, pods},
		{&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_UpdateVolumes{}}, pods},
		{&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DeletePod{}}, pods},
		{&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DesiredPods{}}, pods},
	} {
		var c Counters
		ctx := c.Context(t.Context(), control)
		Handler{}.HandleRPC(ctx, &stats.InPayload{Payload: tc.payload, WireLength: 3})
		Handler{}.HandleRPC(ctx, &stats.OutPayload{Payload: tc.payload, WireLength: 5})
		var want Sums
		want[tc.want] = Sum{3, 5}
		if got := c.Sums(); got != want {
			t.Errorf("%+v: counted %v, want %v", tc.payload, got, want)
		}
	}
}

// TestCounters counts calls of several kinds at the same time.
func TestCounters(t *testing.T) {
	var c Counters
	frame := &edgeapi.StreamFrame{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ctx := c.Context(t.Context(), control)
			Handler{}.HandleRPC(ctx, &stats.InPayload{Payload: frame, WireLength: 1})
			SetKind(ctx, exec)
			Handler{}.HandleRPC(ctx, &stats.InPayload{Payload: frame, WireLength: 10})
			Handler{}.HandleRPC(ctx, &stats.End{})
		})
	}
	wg.Wait()
	Handler{}.HandleRPC(t.Context(), &stats.InPayload{Payload: frame, WireLength: 1000}) // of a call that is not counted
	SetKind(context.Background(), exec)
	var want Sums
	want[control], want[exec] = Sum{Received: 8}, Sum{Received: 80}
	if got := c.Sums(); got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
	want[rest] = Sum{Received: 12}
	if got := c.Sums().WithOverhead(Sum{100, 0}); got != want {
		t.Errorf("with what the network carried %v, want %v", got, want)
	}
	if total := want.Total(); total != (Sum{100, 0}) {
		t.Errorf("in total %v", total)
	}
}

// count has a ledger count a message of each direction, and the network n bytes.
func count(l *Ledger, method string, kind edgeapi.TrafficKind, received, sent int) {
	ctx := l.Link(method).Context(context.Background(), kind)
	Handler{}.HandleRPC(ctx, &stats.InPayload{Payload: &edgeapi.StreamFrame{}, WireLength: received})
	Handler{}.HandleRPC(ctx, &stats.OutPayload{Payload: &edgeapi.StreamFrame{}, WireLength: sent})
}

func TestLedgerCountsConnections(t *testing.T) {
	var l Ledger
	for range 2 { // connections, one after the other
		a, b := net.Pipe()
		c := l.Link("grpc").Conn(a)
		go func() {
			_, _ = io.CopyN(b, b, 100)
			_ = b.Close()
		}()
		if _, err := c.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, c); n != 100 || err != nil {
			t.Fatal(n, err)
		}
		_ = c.Close()
		count(&l, "grpc", exec, 10, 20)
	}
	count(&l, "mqtt", exec, 1, 2)
	var grpc, mqtt Sums
	grpc[exec], grpc[rest] = Sum{20, 40}, Sum{180, 160}
	mqtt[exec] = Sum{1, 2}
	if got := l.Sums(); len(got) != 2 || got["grpc"] != grpc || got["mqtt"] != mqtt {
		t.Errorf("counted %v", got)
	}
}

func TestReport(t *testing.T) {
	var l Ledger
	var r Report
	if got := r.Changes(&l); got != nil {
		t.Errorf("told %v of nothing", got)
	}
	count(&l, "grpc", exec, 10, 20)
	count(&l, "mqtt", control, 1, 0)
	told := Merge(nil, r.Changes(&l), []string{"grpc", "mqtt"})
	if len(told) != 2 || told[0].Method != "grpc" || told[0].Kind != exec || told[0].Received != 10 || told[0].Sent != 20 ||
		told[1].Method != "mqtt" || told[1].Kind != control || told[1].Received != 1 {
		t.Fatalf("told %v at first", told)
	}
	count(&l, "grpc", exec, reportStep/2, 0)
	if got := r.Changes(&l); got != nil {
		t.Errorf("told %v, which is not worth it", got)
	}
	count(&l, "grpc", exec, 0, reportStep/2)
	changes := r.Changes(&l)
	if len(changes) != 1 || changes[0].Received != 10+reportStep/2 || changes[0].Sent != 20+reportStep/2 {
		t.Errorf("told %v", changes)
	}
	if merged := Merge(told, changes, []string{"grpc", "mqtt"}); len(merged) != 2 || merged[0] != changes[0] || told[0] == changes[0] {
		t.Errorf("merged %v", merged)
	}
	if got := (&Report{}).Changes(&l); len(got) != 2 {
		t.Errorf("another connection is told %v", got)
	}
}

// A device cannot have the server keep or show what it does not know.
func TestMergeLeavesOut(t *testing.T) {
	changes := []*edgeapi.LinkTraffic{
		{Method: "pigeon", Kind: exec, Received: 1}, {Method: "grpc", Kind: 99, Received: 1}, {Method: "grpc", Received: 1}, {Method: "grpc", Kind: -1},
		nil, {Method: "grpc", Kind: exec, Received: 1}, {Method: "grpc", Kind: exec, Received: 2},
	}
	got := Merge(nil, changes, []string{"grpc"})
	if len(got) != 1 || got[0].Received != 2 {
		t.Errorf("merged %v", got)
	}
}

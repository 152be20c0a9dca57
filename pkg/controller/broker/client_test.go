package broker

import (
	"slices"
	"testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// TestGatewayStops: that aranya stops is no fault of the broker, whose devices would be told of it.
func TestGatewayStops(t *testing.T) {
	w := newWorld(t)
	w.device("ns", "a", plain)
	w.eventually("connected", func() bool { return w.state("ns", "a").Connected })
	b := w.live()[0]
	close(w.stopping)
	w.eventually("no longer served", func() bool { return len(b.namespaces()) == 0 })
	// The client goes on, as it does for a while until the pool stops, too.
	w.device("ns", "b", func(c *aranya.MQTTConfig) { c.MessageNamespace = "/other" })
	w.eventually("assigned", func() bool { return w.state("ns", "b").Connected })
	if live := w.live(); !slices.Equal(live, []*fakeBroker{b}) {
		t.Error("the client connected anew")
	}
	if s := w.state("ns", "a"); !s.Connected {
		t.Errorf("the state is %+v", s)
	}
}

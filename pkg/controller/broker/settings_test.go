package broker

import (
	"testing"
	"time"

	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// Over WebSocket there may be proxies on the way, which cut connections that are silent for a minute.
func TestKeepAlive(t *testing.T) {
	for name, tt := range map[string]struct {
		transport aranya.MQTTTransport
		set       *int32
		want      time.Duration
	}{
		"TCP":              {aranya.MQTTTransportTCP, nil, 300 * time.Second},
		"WebSocket":        {aranya.MQTTTransportWebSocket, nil, 45 * time.Second},
		"set for TCP":      {aranya.MQTTTransportTCP, ptr.To[int32](600), 600 * time.Second},
		"set short":        {aranya.MQTTTransportWebSocket, ptr.To[int32](20), 20 * time.Second},
		"set too long":     {aranya.MQTTTransportWebSocket, ptr.To[int32](300), 45 * time.Second},
		"never, if it is":  {aranya.MQTTTransportWebSocket, ptr.To[int32](0), 0},
		"without defaults": {"", nil, 300 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			ed := &aranya.EdgeDevice{Spec: aranya.EdgeDeviceSpec{Connectivity: aranya.Connectivity{
				Method: aranya.ConnectivityMQTT,
				MQTTConfig: &aranya.MQTTConfig{
					Server: "broker:1883", Transport: tt.transport, ConnectPacket: aranya.MQTTConnectPacket{Keepalive: tt.set},
				},
			}}}
			s, err := resolveSettings(ed, nil) // it names no Secret
			if err != nil {
				t.Fatal(err)
			}
			if c, err := s.broker("replica-1"); err != nil || c.KeepAlive != tt.want {
				t.Errorf("the keepalive is %s, want %s, error %v", c.KeepAlive, tt.want, err)
			}
		})
	}
}

// Every device sees in each frame what follows from the instance of a server: it must not be of use for guessing a
// password. What tells clients apart at the broker differs all the same.
func TestInstanceTellsNoSecret(t *testing.T) {
	one, other := &settings{Server: "broker:1883", Username: "u", Password: "p"}, &settings{Server: "broker:1883", Username: "u", Password: "q"}
	a, errA := one.broker("replica-1")
	b, errB := other.broker("replica-1")
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if a.Instance != b.Instance || a.ClientID == b.ClientID {
		t.Errorf("instances %q and %q, client ids %s and %s", a.Instance, b.Instance, a.ClientID, b.ClientID)
	}
	// Nor does that of another cluster at the broker evict this one.
	if c, err := one.broker("replica-1 of another cluster"); err != nil || c.ClientID == a.ClientID || c.Instance == a.Instance {
		t.Errorf("another gateway has the client id %s and the instance %q, error %v", c.ClientID, c.Instance, err)
	}
	another := *one
	another.Username = "v"
	if c, err := another.broker("replica-1"); err != nil || c.Instance == a.Instance {
		t.Errorf("another user has the instance %q, error %v", c.Instance, err)
	}
}

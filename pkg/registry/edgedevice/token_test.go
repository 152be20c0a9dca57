package edgedevice

import (
	"testing"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// TestServerOfAToken would fail if a device behind a broker were sent to the gateway.
func TestServerOfAToken(t *testing.T) {
	secret := &aranya.LocalSecretReference{Name: "s"}
	for want, c := range map[string]aranya.Connectivity{
		"gw:7443":            {Method: aranya.ConnectivityGRPC},
		"mqtt://b:1883":      {Method: aranya.ConnectivityMQTT, MQTTConfig: &aranya.MQTTConfig{Server: "b:1883"}},
		"mqtts://b:8883":     {Method: aranya.ConnectivityMQTT, MQTTConfig: &aranya.MQTTConfig{Server: "b:8883", TLSSecretRef: secret}},
		"mqtt+ws://b:80":     {Method: aranya.ConnectivityMQTT, MQTTConfig: &aranya.MQTTConfig{Server: "b:80", Transport: aranya.MQTTTransportWebSocket}},
		"mqtt+wss://[::1]:1": {Method: aranya.ConnectivityMQTT, MQTTConfig: &aranya.MQTTConfig{Server: "[::1]:1", Transport: aranya.MQTTTransportWebSocket, TLSSecretRef: secret}},
	} {
		if got := serverOf(&aranya.EdgeDevice{Spec: aranya.EdgeDeviceSpec{Connectivity: c}}, "gw:7443"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

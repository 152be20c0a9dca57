package mqtt

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
)

// An attempt to connect that is given up leaves nothing behind, whenever that is; goleak looks at what is left.
func TestConnectGivenUp(t *testing.T) {
	m := brokertest.Start(t, "")
	config, err := BrokerConfig{Server: m.Address}.complete()
	if err != nil {
		t.Fatal(err)
	}
	for range 4000 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.N(1500))*time.Microsecond)
		if cl, err := connect(ctx, config, Will{Topic: "gone", Payload: []byte("x")}, func(paho.Message) {}); err == nil {
			cl.disconnect()
		}
		cancel()
	}
}

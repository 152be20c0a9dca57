package mqtt

import (
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
)

func TestWebSocketTransport(t *testing.T) {
	m, second := brokertest.StartWebSocket(t, "")
	_, l := serve(t, BrokerConfig{Server: second, Transport: TransportWebSocket}, ListenOptions{})
	d := dialer(second, "a")
	d.Broker.Transport = TransportWebSocket
	device, server := connectPair(t, d, l)
	echo(t, device, server)
	overTCP, server := connectPair(t, dialer(m.Address, "b"), l)
	echo(t, overTCP, server)
}

// What a broker writes to a WebSocket must fit what it writes at once, whoever sent it.
func TestMessagesFitWebSocket(t *testing.T) {
	m, second := brokertest.StartWebSocket(t, "")
	tcp := BrokerConfig{Server: m.Address, KeepAlive: time.Minute}
	webSocket := BrokerConfig{Server: second, Transport: TransportWebSocket, KeepAlive: time.Minute}
	older := webSocket // a version that has the same default for all
	older.MaxPayload = 64 << 10
	limited := webSocket
	limited.MaxPayload = 1024
	for name, tt := range map[string]struct {
		server, device BrokerConfig
		want           int
	}{
		"neither over WebSocket": {tcp, tcp, 64 << 10},
		"the server":             {webSocket, tcp, 3 << 10},
		"the device":             {tcp, webSocket, 3 << 10},
		"both":                   {webSocket, webSocket, 3 << 10},
		"an older device":        {webSocket, older, 3 << 10},
		"an older server":        {older, webSocket, 3 << 10},
		"a small limit is set":   {webSocket, limited, 1024},
		"a large limit is set":   {older, older, 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			_, l := serve(t, tt.server, ListenOptions{})
			d := dialer("", "a")
			d.Broker = tt.device
			deviceEnd, server := connectPair(t, d, l)
			for end, c := range map[string]*conn{"device": deviceEnd.Conn.(*device).conn, "server": server.Conn.(*conn)} {
				if got := min(c.maxPayload, c.out.maxPayload); got != tt.want {
					t.Errorf("the %s sends up to %d bytes, want %d", end, got, tt.want)
				}
			}
		})
	}
}

// Mosquitto sends no close message to a client whose ID another one takes.
func TestBrokerClosesTheWebSocket(t *testing.T) {
	_, address := brokertest.StartWebSocket(t, "")
	config, err := BrokerConfig{Server: address, Transport: TransportWebSocket, ClientID: "mine"}.complete()
	if err != nil {
		t.Fatal(err)
	}
	var clients [2]*client
	for i := range clients {
		if clients[i], err = connect(t.Context(), config, Will{Topic: "gone"}, func(paho.Message) {}); err != nil {
			t.Fatal(err)
		}
		defer clients[i].disconnect()
	}
	<-clients[0].done
	if err := clients[0].lost().Error(); !strings.Contains(err, "the broker closed the connection, ") || !strings.Contains(err, `client ID "mine"`) {
		t.Errorf("the connection was lost: %s", err)
	}
}

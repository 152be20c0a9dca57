package brokertest

import (
	"bytes"
	"sync"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// Capture subscribes to everything at the broker. The function that it returns ends that and returns all
// payloads, one after the other.
func Capture(t testing.TB, m *Mosquitto) (stop func() []byte) {
	t.Helper()
	var mu sync.Mutex
	var all bytes.Buffer
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + m.Address).SetClientID("capture"))
	if token := c.Connect(); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	token := c.Subscribe("#", 1, func(_ paho.Client, msg paho.Message) {
		mu.Lock()
		defer mu.Unlock()
		all.Write(msg.Payload())
	})
	if token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	disconnect := sync.OnceFunc(func() { c.Disconnect(250) })
	t.Cleanup(disconnect)
	return func() []byte {
		disconnect()
		mu.Lock()
		defer mu.Unlock()
		return all.Bytes()
	}
}

package mqtt

import (
	"fmt"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
	"arhat.dev/aranya/test/framework/eventually"
)

// TestConnectionsOutliveTheirListener: devices are heard until they have gone, and no longer.
func TestConnectionsOutliveTheirListener(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	first, firstServer := connectPair(t, dialer(m.Address, "a"), l)
	second, secondServer := connectPair(t, dialer(m.Address, "b"), l)
	for _, c := range []*link.Conn{first, firstServer, second, secondServer} {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	echo(t, first, firstServer)
	_, _ = first.Close(), firstServer.Close()
	echo(t, second, secondServer)

	// Who listens anew keeps the subscription when the last one of before is gone.
	l, err := b.Listen(t.Context(), testNamespace, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = second.Close(), secondServer.Close()
	eventually.Succeeds(t, func() error { return used(b, 1) })
	third, thirdServer := connectPair(t, dialer(m.Address, "c"), l)
	echo(t, third, thirdServer)

	_ = l.Close()
	_, _ = third.Close(), thirdServer.Close()
	eventually.Succeeds(t, func() error { return used(b, 0) })
	wantUnsubscribed(t, b, m.Address)
}

// used checks how many listeners and connections there are.
func used(b *Broker, want int) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if n := b.users[testNamespace]; n != want {
		return fmt.Errorf("%d listeners and connections are left, not %d", n, want)
	}
	return nil
}

// wantUnsubscribed publishes on a topic that should not be subscribed to, then on one that is.
func wantUnsubscribed(t *testing.T, b *Broker, server string) {
	t.Helper()
	const other = "/test/others"
	l, err := b.Listen(t.Context(), other, ListenOptions{}) // after the end of the subscription, on the wire
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	publisher := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + server))
	if token := publisher.Connect(); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	defer publisher.Disconnect(250)
	before := b.stats().Malformed
	for _, messageNamespace := range []string{testNamespace, other} {
		if token := publisher.Publish(upTopic(messageNamespace, "default", "a"), 1, false, []byte("no frame")); token.Wait() && token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	eventually.Succeeds(t, func() error {
		if b.stats().Malformed == before {
			return fmt.Errorf("nothing came")
		}
		return nil
	})
	if n := b.stats().Malformed - before; n != 1 {
		t.Errorf("%d messages came: the subscription is still there", n)
	}
}

package mqtt

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
)

// kept is a device with a Keeper, and what it is connected to.
type kept struct {
	broker         *Broker
	mosquitto      *brokertest.Mosquitto
	dialer         Dialer
	device, server *link.Conn
}

// keepingDialer has a Keeper.
func keepingDialer(t *testing.T, address string) Dialer {
	d := dialer(address, "a")
	d.Keeper = &Keeper{}
	t.Cleanup(func() { _ = d.Keeper.Close() })
	return d
}

// ended waits until the device's end is over, and closes it.
func (k *kept) ended(t *testing.T) {
	t.Helper()
	if _, err := k.device.Read(make([]byte, 1)); err == nil {
		t.Error("the device's end goes on")
	}
	_ = k.device.Close()
}

// TestKeeper: a device whose server has ended the link connects anew by the connection to the broker that it has.
func TestKeeper(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(t *testing.T, k *kept)
		same bool // the connection to the broker
	}{
		"the server closes the link": {func(t *testing.T, k *kept) {
			_ = k.server.Close()
			k.ended(t)
		}, true},
		"the server resets the link": {func(t *testing.T, k *kept) {
			c := k.server.Conn.(*conn)
			c.mu.Lock()
			c.resetLocked(errors.New("something is wrong"))
			c.mu.Unlock()
			k.ended(t)
		}, true},
		"the server stops": {func(t *testing.T, k *kept) {
			_ = k.broker.Close()
			k.ended(t)
		}, true},
		"the server is lost": {func(t *testing.T, k *kept) {
			_ = breakNetwork(t, k.broker.client)
			k.broker.client.end(errClosed) // the library does not tell of what was closed beneath it
			k.ended(t)
		}, true},
		"the server stops while the device is parked": {func(t *testing.T, k *kept) {
			d, _ := parkPair(t, k.device, k.server)
			_ = k.broker.Close()
			_ = next(t, d.lost, "the device to notice")
			d.Close()
		}, true},
		"the device closes the link that the server has ended": {func(_ *testing.T, k *kept) {
			k.device.Abandoned()
			_ = k.device.Close()
		}, true},
		"the device closes the link": {func(_ *testing.T, k *kept) { _ = k.device.Close() }, false},
		"the device leaves while it is parked": {func(t *testing.T, k *kept) {
			d, _ := parkPair(t, k.device, k.server)
			d.Close()
		}, false},
		"the broker restarts": {func(t *testing.T, k *kept) {
			k.mosquitto.Stop()
			k.ended(t)
			k.mosquitto.Start()
		}, false},
		"the Keeper is closed": {func(t *testing.T, k *kept) {
			_ = k.broker.Close()
			k.ended(t)
			_ = k.dialer.Keeper.Close()
		}, false},
		"the Keeper was closed before": {func(t *testing.T, k *kept) {
			_ = k.dialer.Keeper.Close()
			_ = k.broker.Close()
			k.ended(t)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := &kept{mosquitto: brokertest.Start(t, "")}
			k.dialer = keepingDialer(t, k.mosquitto.Address)
			config := BrokerConfig{Server: k.mosquitto.Address, Instance: "replica-0"}
			var l net.Listener
			k.broker, l = serve(t, config, ListenOptions{})
			k.device, k.server = connectPair(t, k.dialer, l)
			former := k.device.Conn.(*device).way.client
			tt.end(t, k)
			select {
			case <-k.broker.Done():
				k.broker, l = serve(t, config, ListenOptions{})
			default:
			}
			k.device, k.server = connectPair(t, k.dialer, l)
			echo(t, k.device, k.server)
			now := k.device.Conn.(*device).way.client
			if got := now == former; got != tt.same {
				t.Errorf("it has the same connection to the broker: %t", got)
			}
			if !tt.same {
				<-former.done
			}
			// The will of the broker is for this link, too.
			_ = breakNetwork(t, now)
			if _, err := k.server.Read(make([]byte, 1)); !errors.Is(err, errPeerGone) {
				t.Errorf("the server's end: %v", err)
			}
		})
	}
}

// TestKeeperParks: a device can be parked whose connection to the broker was kept.
func TestKeeperParks(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	d := keepingDialer(t, m.Address)
	client, server := connectPair(t, d, l)
	for range 3 {
		device, its := parkPair(t, client, server)
		client, server = resume(t, device, l)
		its.Close()
		_ = server.Close()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the device's end: %v", err)
		}
		_ = client.Close()
		client, server = connectPair(t, d, l)
		echo(t, client, server)
	}
}

// TestKeeperIsNotGivenWhatIsInUse: a parked device that is closed once more does not touch the connection after it.
func TestKeeperIsNotGivenWhatIsInUse(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	d := keepingDialer(t, m.Address)
	client, server := connectPair(t, d, l)
	parked, _ := parkPair(t, client, server)
	_ = b.Close()
	_ = next(t, parked.lost, "the device to notice")
	parked.Close()
	_, l = serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	client, server = connectPair(t, d, l)
	parked.Close()
	echo(t, client, server)
	if w := d.Keeper.take(); w != nil {
		t.Error("the way is kept while it is in use")
	}
}

// TestKeeperWithoutServer: a device that nobody answers tries again over the same connection to the broker, once.
func TestKeeperWithoutServer(t *testing.T) {
	m := brokertest.Start(t, "")
	d := keepingDialer(t, m.Address)
	attempt := func() *way {
		t.Helper()
		if _, err := withTimeout(t, d, time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the error is %v", err)
		}
		d.Keeper.mu.Lock()
		defer d.Keeper.mu.Unlock()
		return d.Keeper.way
	}
	first := attempt()
	if first == nil {
		t.Fatal("the connection to the broker was not kept")
	}
	if attempt() != nil {
		t.Error("it was kept again")
	}
	<-first.client.done
	second := attempt()
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	client, _ := connectPair(t, d, l)
	if second == nil || client.Conn.(*device).way != second {
		t.Error("another connection to the broker was made")
	}
}

// TestKeeperGivesUp: what nobody takes is given up.
func TestKeeperGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &Keeper{}
		w := &way{client: newClient("broker:1883"), keeper: k}
		w.client.paho = newEther(t, nil)
		if !k.keep(w) {
			t.Fatal("it was not kept")
		}
		time.Sleep(keepTime - 1)
		synctest.Wait()
		if isLost(w.client) {
			t.Error("given up too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !isLost(w.client) || k.take() != nil {
			t.Error("it was not given up")
		}
	})
}

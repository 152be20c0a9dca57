package mqtt

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
)

// TestThousandDevices: all devices of a broker share one client and one subscription of the server. The
// broker's own log is the witness.
func TestThousandDevices(t *testing.T) {
	devices := 1000
	if testing.Short() {
		devices = 50
	}
	m := brokertest.Start(t, "log_type all\nmax_queued_messages 0\n")
	_, l := serve(t, BrokerConfig{Server: m.Address, ClientID: "the-server"}, ListenOptions{})
	accepted := make(chan net.Conn, devices)
	var group errgroup.Group
	group.Go(func() error {
		for range devices {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			accepted <- c
		}
		return nil
	})
	dialled := make(chan net.Conn, devices)
	var dials errgroup.Group
	dials.SetLimit(16)
	for i := range devices {
		dials.Go(func() error {
			c, err := dialer(m.Address, fmt.Sprintf("d%d", i)).Dial(t.Context(), "")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c, "%-8d", i)
			dialled <- c
			return err
		})
	}
	if err := dials.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	close(dialled)
	close(accepted)
	for c := range accepted { // each has the bytes of its own device
		name := make([]byte, 8)
		if _, err := c.Read(name); err != nil {
			t.Fatal(err)
		}
		if want := "/default/d" + strings.TrimSpace(string(name)) + "/up"; !strings.HasSuffix(c.RemoteAddr().String(), want) {
			t.Errorf("%s has the bytes of %s", c.RemoteAddr(), want)
		}
		_ = c.Close()
	}
	var closing errgroup.Group
	for c := range dialled {
		closing.Go(c.Close)
	}
	if err := closing.Wait(); err != nil {
		t.Error(err)
	}
	var clients, subscriptions int
	for line := range strings.Lines(m.Log()) {
		if strings.Contains(line, "New client connected") && strings.Contains(line, "as the-server ") {
			clients++
		}
		if strings.Contains(line, "the-server 1 "+testNamespace) {
			subscriptions++
			if !strings.Contains(line, upFilter(testNamespace)) {
				t.Errorf("another subscription: %s", line)
			}
		}
	}
	all := strings.Count(m.Log(), "New client connected")
	if clients != 1 || subscriptions != 1 || all != devices+1 {
		t.Errorf("%d clients and %d subscriptions of the server, %d clients in all for %d devices", clients, subscriptions, all, devices)
	}
}

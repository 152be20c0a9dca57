package mqtt

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"arhat.dev/aranya/test/framework/eventually"
)

// refusing is the access control of a broker that lets everybody do everything, but devices not subscribe to
// one topic. Unlike the ACL file of Mosquitto, it says so.
type refusing struct {
	mochi.HookBase
	topic string
}

func (*refusing) ID() string { return "refusing" }

func (*refusing) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (*refusing) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

func (r *refusing) OnACLCheck(cl *mochi.Client, topic string, write bool) bool {
	return write || topic != r.topic || string(cl.Properties.Username) != "device"
}

// startRefusing runs a broker and returns its address.
func startRefusing(t *testing.T, topic string) string {
	t.Helper()
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	listener := listeners.NewTCP(listeners.Config{ID: "test", Address: "127.0.0.1:0"})
	if err := server.AddHook(&refusing{topic: topic}, nil); err != nil {
		t.Fatal(err)
	}
	if err := server.AddListener(listener); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Its Close takes a lock for reading that it holds for reading: with a client that leaves meanwhile, for ever.
		eventually.Holds(t, "the clients have left", func() bool { return server.Clients.Len() == 0 })
		_ = server.Close()
	})
	return listener.Address()
}

// TestSubscriptionIsRefused has a broker refuse what a device subscribes to: its own topic is vital, that of the
// servers' status is not, but the device tells of it.
func TestSubscriptionIsRefused(t *testing.T) {
	for what, tc := range map[string]struct {
		topic string
		fatal bool
	}{
		"the topic of the device": {downTopic(testNamespace, "default", "d"), true},
		"the status of servers":   {statusTopic(testNamespace), false},
		"nothing":                 {"another/topic", false},
	} {
		t.Run(what, func(t *testing.T) {
			broker := startRefusing(t, tc.topic)
			_, l := serve(t, BrokerConfig{Server: broker, Username: "aranya"}, ListenOptions{})
			d := Dialer{
				Broker: BrokerConfig{Server: broker, Username: "device"}, MessageNamespace: testNamespace, Namespace: "default", Name: "d",
			}
			logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
			device, err := d.Dial(klog.NewContext(t.Context(), logger), "")
			told := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
			if err != nil {
				told += err.Error()
			} else {
				defer func() { _ = device.Close() }()
				server, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				echo(t, device, server)
			}
			if tc.fatal != (err != nil) {
				t.Errorf("dialled: %v", err)
			}
			refused := what != "nothing"
			if strings.Contains(told, tc.topic) != refused || strings.Contains(told, broker) != refused || strings.Contains(told, "ACL") != refused {
				t.Errorf("told %q", told)
			}
		})
	}
}

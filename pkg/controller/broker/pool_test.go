package broker

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
)

func TestOneClientPerBrokerAndCredential(t *testing.T) {
	w := newWorld(t, secret("a", map[string]string{"password": "p"}), secret("b", map[string]string{"password": "p"}), secret("c", map[string]string{"password": "q"}))
	for _, namespace := range []string{"a", "b", "c"} {
		for _, name := range []string{"d1", "d2"} {
			w.device(namespace, name, withPassword)
		}
	}
	w.device("a", "other-topic", func(c *aranya.MQTTConfig) { withPassword(c); c.MessageNamespace = "/x" })
	w.Eventually("two clients with their subscriptions", func() bool {
		live := w.live()
		if len(live) != 2 {
			return false
		}
		for _, b := range live {
			want := []string{mqtt.DefaultMessageNamespace}
			if b.config.Password == "p" {
				want = append(want, "/x")
			}
			if !slices.Equal(b.namespaces(), want) || b.config.Username != "u" {
				return false
			}
		}
		return w.state("c", "d2").Connected && w.state("a", "other-topic").Connected
	})
	w.mu.Lock()
	made := len(w.brokers)
	w.mu.Unlock()
	if made != 2 {
		t.Errorf("%d connections were made", made)
	}
	// Both hear the devices of the other one, and would tell them that they are not known.
	if live := w.live(); live[0].config.Instance == live[1].config.Instance {
		t.Error("the two clients pass for one server")
	}
	// The last device takes its subscription, and its client, with it.
	w.device("a", "other-topic", nil)
	w.Eventually("unsubscribed", func() bool {
		return !slices.ContainsFunc(w.live(), func(b *fakeBroker) bool { return len(b.namespaces()) != 1 })
	})
	w.device("c", "d1", nil)
	w.Edge.Delete(&aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "c", Name: "d2"}})
	w.Eventually("one client left", func() bool { return len(w.live()) == 1 })
	if _, ok := w.pool.State(types.NamespacedName{Namespace: "c", Name: "d1"}); ok {
		t.Error("a device without a broker has a state of one")
	}
}

// A client whose last device leaves while another one is about to use it is not started again: its former run may
// not be over.
func TestClientIsNotRunTwice(t *testing.T) {
	w := newWorld(t)
	w.device("a", "d1", plain)
	w.Eventually("connected", func() bool { return w.state("a", "d1").Connected })
	w.pool.mu.Lock()
	c := w.pool.devices[types.NamespacedName{Namespace: "a", Name: "d1"}].client
	w.pool.mu.Unlock()
	w.device("a", "d1", nil)
	w.Eventually("disconnected", func() bool { return len(w.live()) == 0 })
	w.pool.assign(types.NamespacedName{Namespace: "a", Name: "d2"}, &assignment{client: c, namespace: mqtt.DefaultMessageNamespace})
	w.pool.mu.Lock()
	again := w.pool.clients[c.id] == c
	w.pool.mu.Unlock()
	if again {
		t.Error("the client runs again")
	}
	w.device("a", "d2", plain)
	w.Eventually("another one is made", func() bool { return w.state("a", "d2").Connected && len(w.live()) == 1 })
}

// Two clients with one client id would evict each other from the broker for ever.
func TestClientIDConflict(t *testing.T) {
	w := newWorld(t, secret("a", map[string]string{"password": "p"}), secret("b", map[string]string{"password": "q"}))
	chosen := func(c *aranya.MQTTConfig) { withPassword(c); c.ConnectPacket.ClientID = "mine" }
	w.device("a", "d1", chosen)
	w.device("a", "d2", chosen) // with the same settings
	w.Eventually("connected", func() bool { return w.state("a", "d1").Connected && w.state("a", "d2").Connected })
	w.device("b", "d1", chosen)
	w.device("b", "elsewhere", func(c *aranya.MQTTConfig) { chosen(c); c.Server = "other:8883" })
	w.Eventually("refused", func() bool { return w.state("b", "d1").Reason == ReasonClientIDConflict })
	if message := w.state("b", "d1").Message; strings.Contains(message, "d1") || !strings.Contains(message, `"mine"`) {
		t.Errorf("message %q", message)
	}
	w.device("a", "d3", func(c *aranya.MQTTConfig) { c.ConnectPacket.ClientID = "mine" })
	w.Eventually("refused", func() bool { return strings.Contains(w.state("a", "d3").Message, "EdgeDevice d1, which is older") })
	w.Eventually("another broker does not matter", func() bool { return w.state("b", "elsewhere").Connected })
	if n := len(w.live()); n != 2 || !w.state("a", "d1").Connected {
		t.Errorf("%d connections; %+v", n, w.state("a", "d1"))
	}
	// The id is free when its last user has gone, or changed.
	w.device("a", "d1", nil)
	w.device("a", "d2", plain)
	w.device("a", "d3", nil)
	w.Eventually("its turn", func() bool { return w.state("b", "d1").Connected && w.state("a", "d2").Connected })
	// One that was made for a device is not for others to choose, whoever is older.
	live := w.live()
	made := live[slices.IndexFunc(live, func(b *fakeBroker) bool { return b.config.ClientID != "mine" })].config.ClientID
	w.device("a", "d4", func(c *aranya.MQTTConfig) { withPassword(c); c.ConnectPacket.ClientID = made })
	w.Eventually("refused", func() bool { return strings.Contains(w.state("a", "d4").Message, "EdgeDevice d2 uses the client id") })
	// A device alone may change the settings of its client.
	w.device("b", "d1", func(c *aranya.MQTTConfig) { chosen(c); c.ConnectPacket.Username = "v" })
	w.Eventually("changed", func() bool {
		return slices.ContainsFunc(w.live(), func(b *fakeBroker) bool { return b.config.Username == "v" }) && w.state("b", "d1").Connected
	})
}

func TestPermits(t *testing.T) {
	w := newWorld(t)
	w.device("ns", "mine", plain)
	w.device("ns", "grpc", nil)
	w.device("ns", "elsewhere", func(c *aranya.MQTTConfig) { c.Server = "other:1883" })
	w.device("ns", "topic", func(c *aranya.MQTTConfig) { c.MessageNamespace = "/x" })
	ns := mqtt.DefaultMessageNamespace
	var b *fakeBroker
	w.Eventually("connected", func() bool {
		for _, l := range w.live() {
			if l.config.Server == "broker:8883" && len(l.namespaces()) == 2 {
				b = l
			}
		}
		return b != nil && w.state("ns", "elsewhere").Connected
	})
	for name, want := range map[string]bool{"mine": true, "grpc": false, "elsewhere": false, "topic": false, "unknown": false} {
		if err := b.admit(ns, "ns", name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.pool.mu.Lock()
	c := w.pool.devices[types.NamespacedName{Namespace: "ns", Name: "mine"}].client
	w.pool.mu.Unlock()
	mine := gateway.Device{Namespace: "ns", Name: "mine", UID: "mine"}
	if err := w.pool.permitDevice(c, ns, mine, topicAddr("broker:8883"+ns+"/ns/mine/up")); err != nil {
		t.Error(err)
	}
	if err := w.pool.permitDevice(c, ns, mine, topicAddr("broker:8883"+ns+"/ns/topic/up")); err == nil || !strings.Contains(err.Error(), "ns/topic") {
		t.Errorf("over the topics of another device: %v", err)
	}
	// A device that moves to another broker may not stay.
	w.device("ns", "mine", func(c *aranya.MQTTConfig) { c.Server = "other:1883" })
	w.Eventually("moved", func() bool { return w.pool.permitDevice(c, ns, mine, topicAddr("broker:8883"+ns+"/ns/mine/up")) != nil })
	w.Eventually("its link was looked at", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.checked["ns/mine"] })
}

// Clients with different credentials hear all devices of a message namespace, as do those that reach one broker by
// different addresses. A device that goes from one to the other must not hear that it has no business there.
func TestOtherClientOfTheBroker(t *testing.T) {
	for what, change := range map[string]func(*aranya.MQTTConfig){
		"other credentials": withPassword,
		"another address":   func(c *aranya.MQTTConfig) { c.Server = "10.0.0.9:8883" },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, secret("ns", map[string]string{"password": "p"}))
			w.device("ns", "moves", plain)
			w.device("ns", "stays", plain)
			key := types.NamespacedName{Namespace: "ns", Name: "moves"}
			client := func() *client {
				w.pool.mu.Lock()
				defer w.pool.mu.Unlock()
				if a := w.pool.devices[key]; a != nil {
					return a.client
				}
				return nil
			}
			w.Eventually("connected", func() bool { return client() != nil })
			former := client()
			w.device("ns", "moves", change)
			w.Eventually("moved", func() bool { c := client(); return c != nil && c != former })
			now, ns := client(), mqtt.DefaultMessageNamespace
			device := gateway.Device{Namespace: "ns", Name: "moves", UID: "moves"}
			if err := w.pool.permitDevice(former, ns, device, topicAddr(former.server+ns+"/ns/moves/up")); !errors.Is(err, gateway.ErrElsewhere) {
				t.Errorf("its link over the former client: %v", err)
			}
			for range 2 { // it stays so
				if err := w.pool.admit(former, ns, key); !errors.Is(err, mqtt.ErrLater) {
					t.Errorf("the former client tells a device of the other one: %v", err)
				}
			}
			if err := w.pool.admit(now, ns, key); err != nil {
				t.Errorf("the client in charge: %v", err)
			}
			if err := w.pool.permitDevice(now, ns, device, topicAddr(now.server+ns+"/ns/moves/up")); err != nil {
				t.Error(err)
			}
		})
	}
}

// A device may come before what makes it known is in memory. It gets a moment; who stays unknown is told so.
func TestStrangersGetAMoment(t *testing.T) {
	w := newWorld(t)
	now := clocktesting.NewFakeClock(time.Unix(1e9, 0))
	w.pool.config.Clock = now // nothing looks at it before there is a device
	c := &client{pool: w.pool, server: "broker:8883"}
	key := types.NamespacedName{Namespace: "ns", Name: "new"}
	admit := func() error { return w.pool.admit(c, mqtt.DefaultMessageNamespace, key) }
	for i, tt := range []struct {
		pass  time.Duration
		later bool
	}{{0, true}, {strangerPatience - 1, true}, {1, false}, {strangerMemory - strangerPatience - 1, false}, {1, true}} {
		now.Step(tt.pass)
		if err := admit(); errors.Is(err, mqtt.ErrLater) != tt.later || err == nil {
			t.Errorf("asked for the %d. time: %v", i+1, err)
		}
	}
	// Its Secret has not been read yet, and then it turns out to be missing.
	w.device("ns", "new", withPassword)
	w.Eventually("decided", func() bool { return w.state("ns", "new").Reason == ReasonSecretNotFound })
	if err := admit(); err == nil || !strings.Contains(err.Error(), w.state("ns", "new").Message) {
		t.Errorf("a device with a problem: %v", err)
	}
	// One that is known not to use MQTT is refused at once.
	key.Name = "grpc"
	w.device("ns", "grpc", nil)
	w.Eventually("known", func() bool { return w.pool.known(key) })
	if err := admit(); err == nil || errors.Is(err, mqtt.ErrLater) {
		t.Errorf("a device without MQTT: %v", err)
	}
}

type topicAddr string

func (topicAddr) Network() string  { return "mqtt" }
func (a topicAddr) String() string { return string(a) }

func TestSecretsAreFollowed(t *testing.T) {
	w := newWorld(t)
	w.device("ns", "d", withPassword)
	reason := func(want string) func() bool { return func() bool { return w.state("ns", "d").Reason == want } }
	w.Eventually("the missing Secret is told", reason(ReasonSecretNotFound))
	secrets := w.Kube.CoreV1().Secrets("ns")
	if _, err := secrets.Create(w.Ctx, secret("ns", map[string]string{"pass": "1"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the missing key is told", reason(ReasonInvalidSecret))
	for _, password := range []string{"one", "two"} {
		if _, err := secrets.Update(w.Ctx, secret("ns", map[string]string{"password": password}), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.Eventually("connected with the password of the Secret", func() bool {
			live := w.live()
			return len(live) == 1 && live[0].config.Password == password && w.state("ns", "d").Connected
		})
	}
}

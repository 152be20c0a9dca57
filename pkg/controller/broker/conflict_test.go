package broker

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/controllertest"
)

// Who comes first when aranya starts is chance. Who was created first is not.
func TestOlderDeviceHasTheClientID(t *testing.T) {
	w := newWorld(t, secret("a", map[string]string{"password": "p"}), secret("z", map[string]string{"password": "q"}))
	chosen := func(c *aranya.MQTTConfig) { withPassword(c); c.ConnectPacket.ClientID = "mine" }
	at := func(seconds int64) metav1.Time { return metav1.NewTime(time.Unix(1e9+seconds, 0)) }
	w.deviceOf(at(5), "a", "intruder", chosen)
	w.deviceOf(at(6), "a", "another", chosen)
	connected := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return !w.state(name[:1], name[2:]).Connected })
	}
	refused := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return w.state(name[:1], name[2:]).Reason != ReasonClientIDConflict })
	}
	w.Eventually("the only ones", func() bool { return connected("a/intruder", "a/another") })
	w.deviceOf(at(1), "z", "rightful", chosen)
	w.deviceOf(at(9), "z", "other", chosen) // has the same settings
	w.Eventually("the older one and its like", func() bool {
		live := w.live()
		return connected("z/rightful", "z/other") && refused("a/intruder", "a/another") && len(live) == 1 && live[0].config.Password == "q"
	})
	// One that cannot be reached has nothing.
	if err := w.Kube.CoreV1().Secrets("z").Delete(w.Ctx, "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the next one", func() bool {
		return connected("a/intruder", "a/another") && w.state("z", "rightful").Reason == ReasonSecretNotFound
	})
	if _, err := w.Kube.CoreV1().Secrets("z").Create(w.Ctx, secret("z", map[string]string{"password": "q"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the older one again", func() bool { return connected("z/rightful", "z/other") && refused("a/intruder", "a/another") })
	w.Eventually("one connection", func() bool { return len(w.live()) == 1 })
	w.device("z", "rightful", nil)
	w.Eventually("the oldest that is left", func() bool { return connected("a/intruder", "a/another") && refused("z/other") })
}

// A younger device that is looked at first when aranya starts waits for the older one, of whose Secret nothing is known
// yet.
func TestYoungerDeviceIsLookedAtFirst(t *testing.T) {
	w := &world{World: controllertest.New(t), checked: map[string]bool{}, stopping: make(chan struct{})}
	pool, err := New(w.Ctx, Config{Kube: w.Kube, Devices: w.Devices, Lister: w.Lister, Clock: clock.RealClock{}, Changed: w.count})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.queue.ShutDown)
	pool.ctx, pool.connect = w.Ctx, w.connect
	pool.SetGateway(w)
	key := func(namespace string) types.NamespacedName {
		return types.NamespacedName{Namespace: namespace, Name: "d"}
	}
	for namespace, created := range map[string]int64{"younger": 9, "older": 1} {
		ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "d", UID: types.UID(namespace), CreationTimestamp: metav1.NewTime(time.Unix(1e9+created, 0)),
		}}
		packet := aranya.MQTTConnectPacket{ClientID: "mine", Username: "u"}
		if namespace == "older" {
			packet.Password = &aranya.LocalSecretReference{Name: "s"}
		}
		ed.Spec.Connectivity = aranya.Connectivity{Method: aranya.ConnectivityMQTT, MQTTConfig: &aranya.MQTTConfig{Server: "broker:1883", ConnectPacket: packet}}
		if err := w.Devices.GetIndexer().Add(ed); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := pool.sync(w.Ctx, key("younger")); again > 0 || err != nil {
		t.Errorf("look again after %s, %v", again, err)
	}
	if state, assigned := pool.State(key("younger")); assigned || !pool.waiting[key("older")].Has(key("younger")) {
		t.Errorf("the younger one has the client id, or does not wait: %+v, waiting: %v", state, pool.waiting)
	}
}

// Devices that share a client id, and a Secret, are no rivals while they go from its former content to the next.
func TestSharedClientIDSurvivesANewPassword(t *testing.T) {
	w := newWorld(t, secret("a", map[string]string{"password": "p"}))
	const n = 20
	all := func(password string) func() bool {
		return func() bool {
			for i := range n {
				if !w.state("a", fmt.Sprint("d", i)).Connected {
					return false
				}
			}
			live := w.live()
			return len(live) == 1 && live[0].config.Password == password
		}
	}
	var conflicts atomic.Int64
	changed := w.pool.config.Changed
	w.pool.config.Changed = func(key types.NamespacedName) { // nobody calls it before there is a device
		if s, _ := w.pool.State(key); s.Reason == ReasonClientIDConflict {
			conflicts.Add(1)
		}
		changed(key)
	}
	for i := range n {
		w.device("a", fmt.Sprint("d", i), func(c *aranya.MQTTConfig) { withPassword(c); c.ConnectPacket.ClientID = "mine" })
	}
	w.Eventually("connected", all("p"))
	for _, password := range []string{"q", "r", "p"} {
		if _, err := w.Kube.CoreV1().Secrets("a").Update(w.Ctx, secret("a", map[string]string{"password": password}), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.Eventually("connected with the new password", all(password))
	}
	if n := conflicts.Load(); n > 0 {
		t.Errorf("told of %d conflicts", n)
	}
}

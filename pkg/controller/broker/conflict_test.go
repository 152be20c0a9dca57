package broker

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
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

package broker

import "testing"

// Every device sees in each frame what follows from the instance of a server: it must not be of use for guessing a
// password. What tells clients apart at the broker differs all the same.
func TestInstanceTellsNoSecret(t *testing.T) {
	one, other := &settings{Server: "broker:1883", Username: "u", Password: "p"}, &settings{Server: "broker:1883", Username: "u", Password: "q"}
	a, errA := one.broker("replica-1")
	b, errB := other.broker("replica-1")
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if a.Instance != b.Instance || a.ClientID == b.ClientID {
		t.Errorf("instances %q and %q, client ids %s and %s", a.Instance, b.Instance, a.ClientID, b.ClientID)
	}
	// Nor does that of another cluster at the broker evict this one.
	if c, err := one.broker("replica-1 of another cluster"); err != nil || c.ClientID == a.ClientID || c.Instance == a.Instance {
		t.Errorf("another gateway has the client id %s and the instance %q, error %v", c.ClientID, c.Instance, err)
	}
	another := *one
	another.Username = "v"
	if c, err := another.broker("replica-1"); err != nil || c.Instance == a.Instance {
		t.Errorf("another user has the instance %q, error %v", c.Instance, err)
	}
}

package broker

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// holderLocked returns the client that holds the client id of another one at the same broker, for which
// somebody chose it: the broker would have them evict each other for ever. One that only this device
// uses is about to go.
func (p *Pool) holderLocked(key types.NamespacedName, c *client) *client {
	for _, other := range p.clients {
		if other != c && other.server == c.server && other.config.ClientID == c.config.ClientID && other.usedByOthers(key) {
			return other
		}
	}
	return nil
}

// usedByOthers says whether other devices than one use the client.
func (c *client) usedByOthers(key types.NamespacedName) bool {
	for _, users := range c.users {
		if users.Len() > 1 || !users.Has(key) {
			return true
		}
	}
	return false
}

func clientIDConflict(c, holder *client) State {
	var users []string
	for _, keys := range holder.users {
		for key := range keys {
			users = append(users, key.String())
		}
	}
	slices.Sort(users)
	return State{Reason: ReasonClientIDConflict, Message: fmt.Sprintf(
		"EdgeDevice %s uses the client id %q at the MQTT broker %s already, with other settings, and a broker lets only one client have it: "+
			"give this device another spec.connectivity.mqttConfig.connectPacket.clientID, none, or the same settings", users[0], c.config.ClientID, c.server)}
}

// reconsiderLocked looks again at the devices that a client id was refused to.
func (p *Pool) reconsiderLocked() {
	for key, a := range p.devices {
		if a.client == nil && a.problem.Reason == ReasonClientIDConflict {
			p.queue.Add(key)
		}
	}
}

package broker

import (
	"errors"
	"fmt"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
)

const (
	// strangerPatience is how long a device that is not known may turn out to be one: its EdgeDevice or Secret
	// may be so new that they are not in memory yet.
	strangerPatience = 5 * time.Second
	// strangerMemory is how long a device that stays unknown is refused at once.
	strangerMemory = time.Minute
	maxStrangers   = 4096
)

// admit is permit for a device that asks to be let in: mqtt.ErrLater as long as that is not known.
func (p *Pool) admit(c *client, namespace string, key types.NamespacedName) error {
	err := p.permit(c, namespace, key)
	if errors.Is(err, gateway.ErrElsewhere) {
		return mqtt.ErrLater // the other client is the one to answer, if it hears the device, too
	}
	if err == nil || p.known(key) {
		p.strangers.Remove(key)
		return err
	}
	now := p.config.Clock.Now()
	if since, ok := p.strangers.Get(key); ok {
		if waited := now.Sub(since.(time.Time)); waited < strangerPatience {
			return mqtt.ErrLater
		} else if waited < strangerMemory {
			return err
		}
	}
	p.strangers.Add(key, now)
	return mqtt.ErrLater
}

// known tells whether it has been decided how the EdgeDevice of this name, as it is in memory, is reached.
func (p *Pool) known(key types.NamespacedName) bool {
	ed, err := p.config.Lister.EdgeDevices(key.Namespace).Get(key.Name)
	if err != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.devices[key]
	return !usesMQTT(ed) || a != nil && a.uid == ed.UID
}

// permit says whether a device may use its topics at a broker.
func (p *Pool) permit(c *client, namespace string, key types.NamespacedName) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.devices[key]
	switch {
	case a == nil || a.namespace != namespace:
		return fmt.Errorf("no EdgeDevice %s is reached through the topics %s/... of the MQTT broker %s: see its spec.connectivity",
			key, namespace, c.server)
	case a.client == nil:
		return fmt.Errorf("aranya cannot use the MQTT broker of EdgeDevice %s: %s", key, a.problem.Message)
	case a.client != c:
		// It hears the same devices with other credentials, and may by another address of the same broker.
		return fmt.Errorf("%w: EdgeDevice %s is reached by another connection of aranya to the MQTT broker %s now", gateway.ErrElsewhere, key, a.client.server)
	}
	return nil
}

// permitDevice is permit for a device that has proved who it is.
func (p *Pool) permitDevice(c *client, namespace string, device gateway.Device, remote net.Addr) error {
	key := types.NamespacedName{Namespace: device.Namespace, Name: device.Name}
	if topic := c.server + namespace + "/" + key.String() + "/up"; remote == nil || remote.String() != topic {
		return fmt.Errorf("the certificate or token is for EdgeDevice %s, but it came over %v instead of %s", key, remote, topic)
	}
	return p.permit(c, namespace, key)
}

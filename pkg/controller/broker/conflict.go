package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/cache"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/pod/resolve"
)

// clientIDIndex is the name of the index of EdgeDevices by broker and client id, of those for which somebody chose one.
const clientIDIndex = "mqttClientID"

var _ cache.IndexFunc = byClientID

func byClientID(object any) ([]string, error) {
	ed, ok := object.(*aranya.EdgeDevice)
	if !ok || !usesMQTT(ed) || ed.Spec.Connectivity.MQTTConfig.ConnectPacket.ClientID == "" {
		return nil, nil
	}
	config := ed.Spec.Connectivity.MQTTConfig
	return []string{clientIDKey(config.Server, config.ConnectPacket.ClientID)}, nil
}

func clientIDKey(server, id string) string { return server + "\x00" + id }

// contendLocked decides who of the devices that want one client id at a broker, with different settings, gets it: the
// broker would have their clients evict each other for ever. It is the oldest one. It returns false if that is not
// known yet; the device is looked at again when it is.
func (p *Pool) contendLocked(key types.NamespacedName, a *assignment) (decided bool) {
	c := a.client
	if p.clients[c.id] != nil {
		return true // it has it already
	}
	for _, other := range p.clients {
		if c.chosen && !other.chosen && other.sameID(c) { // which somebody chose a second time
			p.refuseLocked(key, a, other.devices()[0], "")
			return true
		}
	}
	if c.chosen {
		older, settings, err := p.seniorLocked(key, c)
		switch {
		case err != nil:
			p.waitLocked(key, older)
			return false
		case settings != "" && settings != c.id:
			p.refuseLocked(key, a, older, ", which is older,")
			return true
		}
	}
	p.evictLocked(c)
	return true
}

// seniorLocked returns the oldest device that wants a client id and could be reached with it, if it is older than this
// one, and its settings as they are now: when a Secret changes that many use, all of them go on together. The error
// is not nil as long as that is not known.
func (p *Pool) seniorLocked(key types.NamespacedName, c *client) (older types.NamespacedName, settings string, err error) {
	objects, err := p.config.Devices.GetIndexer().ByIndex(clientIDIndex, clientIDKey(c.server, c.config.ClientID))
	if err != nil {
		return key, "", err // never, the index is there
	}
	devices := make([]*aranya.EdgeDevice, 0, len(objects))
	for _, object := range objects {
		devices = append(devices, object.(*aranya.EdgeDevice))
	}
	slices.SortFunc(devices, func(a, b *aranya.EdgeDevice) int {
		if order := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); order != 0 {
			return order
		}
		return strings.Compare(keyOf(a).String(), keyOf(b).String())
	})
	for _, ed := range devices {
		if keyOf(ed) == key {
			break
		}
		s, err := resolveSettings(ed, p.objects)
		switch {
		case err == nil:
			return keyOf(ed), s.id(), nil
		case errors.Is(err, resolve.ErrPending):
			return keyOf(ed), "", err
		case isProblem(err):
			continue // it cannot use the client id
		}
		switch a := p.devices[keyOf(ed)]; {
		case a == nil:
			return keyOf(ed), "", err // it was not looked at yet, so its Secret is not in use
		case a.client != nil: // its Secret cannot be read just now: what is known of it stays good
			return keyOf(ed), a.client.id, nil
		}
	}
	return key, "", nil
}

func keyOf(ed *aranya.EdgeDevice) types.NamespacedName {
	return types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name}
}

func (c *client) sameID(other *client) bool {
	return c.server == other.server && c.config.ClientID == other.config.ClientID
}

// refuseLocked tells a device that another one has its client id, and by what right. What other namespaces hold is not
// told.
func (p *Pool) refuseLocked(key types.NamespacedName, a *assignment, holder types.NamespacedName, right string) {
	p.waitLocked(key, holder)
	who := "An EdgeDevice of another namespace"
	if holder.Namespace == key.Namespace {
		who = "EdgeDevice " + holder.Name
	}
	c := a.client
	a.client, a.problem = nil, State{Reason: ReasonClientIDConflict, Message: fmt.Sprintf(
		"%s%s uses the client id %q at the MQTT broker %s, with other settings, and a broker lets only one client have it: "+
			"give this device another spec.connectivity.mqttConfig.connectPacket.clientID, none, or the same settings", who, right, c.config.ClientID, c.server)}
}

// evictLocked ends other clients that have the client id of one. Their devices are looked at again: they follow it, or
// are refused.
func (p *Pool) evictLocked(c *client) {
	for id, other := range p.clients {
		if other == c || !other.sameID(c) {
			continue
		}
		other.stop()
		delete(p.clients, id)
		for _, key := range other.devices() {
			p.queue.Add(key)
		}
	}
}

// waitLocked has a device looked at again when another one was.
func (p *Pool) waitLocked(key, other types.NamespacedName) {
	if p.waiting[other] == nil {
		p.waiting[other] = sets.New[types.NamespacedName]()
	}
	p.waiting[other].Insert(key)
}

// wake has those looked at again that wait for a device.
func (p *Pool) wake(other types.NamespacedName) {
	p.mu.Lock()
	waiting := p.waiting[other]
	delete(p.waiting, other)
	p.mu.Unlock()
	for key := range waiting {
		p.queue.Add(key)
	}
}

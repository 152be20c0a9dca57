package device

import (
	"hash/maphash"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/edge/gateway"
)

var factsSeed = maphash.MakeSeed()

// factsOf is a digest of which device this is and what it said of itself.
func factsOf(s gateway.Session) uint64 {
	var h maphash.Hash
	h.SetSeed(factsSeed)
	_, _ = h.WriteString(string(s.Device().UID) + "/" + s.Hello().GetAgentVersion() + "/" + s.Info().Method + "/")
	_, _ = h.Write(s.Hello().GetNodeStatus().GetStatus())
	return h.Sum64()
}

// LinkUp implements links.Listener.
func (c *Controller) LinkUp(s gateway.Session) {
	key := links.Key(s.Device())
	facts := factsOf(s)
	former, known := c.history(s.Device())
	// The stored status tells of this link already if it tells of the lost one and not of its loss.
	back := former.down && !former.announced && former.was
	c.remember(key, linkHistory{uid: s.Device().UID, facts: facts, announced: back && former.facts == facts})
	if !back && (known || !c.returns(s.Device())) {
		info := s.Info()
		c.config.Events.Device(s.Device(), corev1.EventTypeNormal, "Connected", "The device connected over %s from %s to replica %s", info.Method, host(info.RemoteAddress), info.Replica)
	}
	c.queue.AddAfter(key, settle)
}

// returns says whether a device had a link until aranya was restarted.
func (c *Controller) returns(device gateway.Device) bool {
	if c.grace() <= 0 {
		return false
	}
	ed, err := c.config.Lister.EdgeDevices(device.Namespace).Get(device.Name)
	return err == nil && ed.UID == device.UID && meta.IsStatusConditionTrue(ed.Status.Conditions, aranya.EdgeDeviceConnected)
}

// LinkDown implements links.Listener.
func (c *Controller) LinkDown(device gateway.Device, lost links.Loss) {
	key := links.Key(device)
	former, _ := c.history(device)
	c.remember(key, linkHistory{
		uid: device.UID, down: true, lost: lost.Message(), lastSeen: lost.LastSeen, lostAt: lost.At,
		facts: former.facts, was: former.announced && !former.down,
	})
	c.queue.AddAfter(key, settle)
}

// LastSeen is when a device that is not connected was last heard of, as far as that is known, which may not be stored yet;
// zero if it never was.
func (c *Controller) LastSeen(ed *aranya.EdgeDevice) time.Time {
	if history, _ := c.history(gateway.DeviceOf(ed)); history.down && !history.lastSeen.IsZero() {
		return history.lastSeen
	}
	seen := ptr.Deref(ed.Status.LastSeen, metav1.Time{}).Time
	if meta.IsStatusConditionTrue(ed.Status.Conditions, aranya.EdgeDeviceConnected) { // it is as old as the last change of the status
		if before := c.config.SeenBefore(gateway.DeviceOf(ed)); before.After(seen) {
			return before
		}
	}
	return seen
}

// history returns what happened on a device's last link since the start. That of a former EdgeDevice of the name is none of
// its.
func (c *Controller) history(device gateway.Device) (history linkHistory, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	history, known = c.links[links.Key(device)]
	if history.uid != device.UID {
		return linkHistory{}, false
	}
	return history, known
}

// told says whether LinkUp and LinkDown have told of what the tracker knows of a device's link, which they do a moment
// later: until then its history is that of the link before, and they lead back here.
func (c *Controller) told(key types.NamespacedName, ed *aranya.EdgeDevice) bool {
	live := c.config.Tracker.Session(key, ed.UID) != nil
	history, known := c.history(gateway.DeviceOf(ed))
	return live == (known && !history.down) || c.config.Tracker.Stopping()
}

// remember keeps what happened on a device's link. Calls for one device come in order.
func (c *Controller) remember(key types.NamespacedName, history linkHistory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	history.turn, history.since = c.turn, c.config.Clock.Now()
	c.links[key] = history
}

// setAnnounced notes whether the stored status tells of a link, unless there has been another since.
func (c *Controller) setAnnounced(key types.NamespacedName, history linkHistory, announced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now, ok := c.links[key]; ok && now.turn == history.turn {
		now.announced = announced
		c.links[key] = now
	}
}

// setWritten notes the version of an EdgeDevice that was just written.
func (c *Controller) setWritten(key types.NamespacedName, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if history, ok := c.links[key]; ok {
		history.written = version
		c.links[key] = history
	}
}

// wrote says whether a version of an EdgeDevice is the one that was written here last: to be told of it is no
// news. What it was written by has been compared with it.
func (c *Controller) wrote(ed *aranya.EdgeDevice) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	history, ok := c.links[types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name}]
	return ok && ed.ResourceVersion != "" && history.written == ed.ResourceVersion
}

// host leaves out the port: events that differ in nothing else are one event that happened again.
func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

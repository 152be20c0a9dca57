// Package links knows which devices have a live link on this replica, and tells the controllers when
// that changes. It is the gateway.Handler of the controllers. What is done about a link that came or
// went belongs into the controllers.
package links

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// Listener is told when a device comes and goes. The calls for one device come in order; they must
// be quick and not call back into the Tracker's handler methods.
type Listener interface {
	// LinkUp is called when a device has a new link, also when that replaces an older one.
	LinkUp(s gateway.Session)
	// LinkDown is called when a device has no link any more. It is not called for a link that was
	// replaced by a newer one.
	LinkDown(device gateway.Device, lost Loss)
}

// MessageListener gets the messages of the devices. The same rules hold as for Listener.
type MessageListener interface {
	// Message is called for each message but Hello and Pong, of current links only.
	Message(s gateway.Session, msg *edgeapi.DeviceMessage)
}

// Loss is the end of a link.
type Loss struct {
	// Reason is never nil.
	Reason error
	// At is when it was noticed; see Tracker.Patience.
	At time.Time
	// LastSeen is when the device was last heard of.
	LastSeen time.Time
}

// Message is the reason in words for people, without the trimmings of gRPC.
func (l Loss) Message() string { return status.Convert(l.Reason).Message() }

// Tracker keeps the current link of each device. All methods may be called concurrently.
type Tracker struct {
	// order serializes the calls to the listeners, so that a late end of an old link cannot overtake
	// the start of the new one.
	order sync.Mutex
	mu    sync.RWMutex
	links map[types.NamespacedName]*link

	listeners []Listener
	messages  []MessageListener

	clock    clock.PassiveClock
	patience patience
	stopping atomic.Bool
}

// link is a live link.
type link struct {
	session gateway.Session
	// nodeStatus is the last one that the device sent.
	nodeStatus *edgeapi.NodeStatus
}

var _ gateway.Handler = &Tracker{}

// NewTracker returns a Tracker without links. Grace is how long devices may take to come back when many
// were lost at once.
func NewTracker(clock clock.PassiveClock, grace time.Duration) *Tracker {
	return &Tracker{links: map[types.NamespacedName]*link{}, clock: clock, patience: patience{grace: grace}}
}

// Patience is how much longer a device may take to come back, whose link was lost at that time, until it
// counts as away. It may grow when more links are lost.
func (t *Tracker) Patience(lost time.Time) time.Duration { return t.patience.left(lost, t.clock.Now()) }

// Stopping says that this replica ends the sessions of its devices: that one has no link says nothing about it
// any more, and it is for the next aranya to judge whether it is away.
func (t *Tracker) Stopping() bool { return t.stopping.Load() }

// AddListener adds a listener. Not to be called once links come up.
func (t *Tracker) AddListener(l Listener) {
	t.listeners = append(t.listeners, l)
	if m, ok := l.(MessageListener); ok {
		t.messages = append(t.messages, m)
	}
}

// Key of a device.
func Key(d gateway.Device) types.NamespacedName {
	return types.NamespacedName{Namespace: d.Namespace, Name: d.Name}
}

// Session returns the live link of a device, or nil. A link of an EdgeDevice with another UID does not
// count.
func (t *Tracker) Session(key types.NamespacedName, uid types.UID) gateway.Session {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.links[key]
	if l == nil || l.session.Device().UID != uid {
		return nil
	}
	return l.session
}

// Linked says whether a device of this name has a live link, whatever its UID.
func (t *Tracker) Linked(key types.NamespacedName) (gateway.Device, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.links[key]; l != nil {
		return l.session.Device(), true
	}
	return gateway.Device{}, false
}

// NodeStatus returns what a device reported last on itself over this link, nil if nothing. Not to be
// modified.
func (t *Tracker) NodeStatus(s gateway.Session) *edgeapi.NodeStatus {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.links[Key(s.Device())]; l != nil && l.session == s {
		return l.nodeStatus
	}
	return nil
}

// SessionStarted implements gateway.Handler.
func (t *Tracker) SessionStarted(s gateway.Session) {
	t.order.Lock()
	defer t.order.Unlock()
	t.mu.Lock()
	t.links[Key(s.Device())] = &link{session: s, nodeStatus: s.Hello().GetNodeStatus()}
	t.mu.Unlock()
	for _, l := range t.listeners {
		l.LinkUp(s)
	}
}

// DeviceMessage implements gateway.Handler. What an old link still had to say after it was replaced
// is dropped: the device says it again on the new one.
func (t *Tracker) DeviceMessage(s gateway.Session, msg *edgeapi.DeviceMessage) {
	if !t.current(s) {
		return
	}
	if m, ok := msg.GetMessage().(*edgeapi.DeviceMessage_NodeStatus); ok {
		t.mu.Lock()
		if l := t.links[Key(s.Device())]; l != nil && l.session == s {
			l.nodeStatus = m.NodeStatus
		}
		t.mu.Unlock()
	}
	for _, l := range t.messages {
		l.Message(s, msg)
	}
}

// SessionEnded implements gateway.Handler.
func (t *Tracker) SessionEnded(s gateway.Session, reason error) {
	t.order.Lock()
	defer t.order.Unlock()
	if !t.current(s) {
		return
	}
	t.mu.Lock()
	delete(t.links, Key(s.Device()))
	left := len(t.links)
	t.mu.Unlock()
	if errors.Is(reason, gateway.ErrStopping) {
		// Nodes must not flap because aranya is restarted. A device that does not come back is noticed by
		// the next aranya, or by its Node's Lease.
		t.stopping.Store(true)
		return
	}
	lost := Loss{Reason: reason, At: t.clock.Now(), LastSeen: s.Info().LastSeen}
	t.patience.lost(lost.At, left+1)
	for _, l := range t.listeners {
		l.LinkDown(s.Device(), lost)
	}
}

func (t *Tracker) current(s gateway.Session) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.links[Key(s.Device())]
	return l != nil && l.session == s
}

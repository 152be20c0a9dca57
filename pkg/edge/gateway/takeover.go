package gateway

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/lru"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	// Two machines share an identity if each has taken the live link from the other this often within
	// takeoverWindow, which is longer than an agent pauses after that at most.
	takeoversEach  = 2
	takeoverWindow = 15 * time.Minute
	// takeoversKept is how many of a device are remembered, the latest: more than two machines may take part.
	takeoversKept = 8
	// takersTracked is how many devices are remembered, the latest.
	takersTracked = 1024
	// maxBootID is longer than the boot ID of any machine.
	maxBootID = 64
)

// Machine is one of those that use the identity of a device.
type Machine struct {
	Address, BootID string
}

// takeover is the end of a live link by another one of the same device, from another boot of a machine.
type takeover struct {
	at       time.Time
	by, from string // boot IDs
}

// takeovers finds out that several machines use the identity of one device. That a link takes the place of a live one
// proves nothing: the device may have another address, and after a power failure another boot ID, before its old link
// is found to be dead. But a boot that has been replaced by the next never comes back on one machine.
type takeovers struct {
	mu      sync.Mutex
	devices *lru.Cache // of []takeover by Device
}

func newTakeovers() *takeovers { return &takeovers{devices: lru.New(takersTracked)} }

// add takes note of a takeover, and says whether it shows that both boots are alive.
func (t *takeovers) add(d Device, now takeover) bool {
	if now.by == "" || now.from == "" || now.by == now.from {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var kept []takeover
	if former, ok := t.devices.Get(d); ok {
		kept = slices.DeleteFunc(former.([]takeover), func(o takeover) bool { return now.at.Sub(o.at) > takeoverWindow })
	}
	kept = append(kept, now)
	kept = kept[max(0, len(kept)-takeoversKept):]
	t.devices.Add(d, kept)
	there, back := 0, 0
	for _, o := range kept {
		switch {
		case o.by == now.by && o.from == now.from:
			there++
		case o.by == now.from && o.from == now.by:
			back++
		}
	}
	return there >= takeoversEach && back >= takeoversEach
}

// tookOver tells of two machines that use one identity if it shows in that s has taken the place of a live session.
func (g *Gateway) tookOver(s, former *session) {
	if g.config.IdentityInUse == nil {
		return
	}
	one, other := s.machine(), former.machine()
	if g.takeovers.add(s.device, takeover{at: s.since, by: one.BootID, from: other.BootID}) {
		g.config.IdentityInUse(s.device, one, other)
	}
}

// machine is what a session tells of the machine that it comes from.
func (s *session) machine() Machine {
	return Machine{Address: remoteAddress(s.conn.Load()), BootID: bootID(s.nodeStatus.Load())}
}

// bootID is what a device says of its boot, empty if nothing usable.
func bootID(reported *edgeapi.NodeStatus) string {
	status := &corev1.NodeStatus{}
	if err := status.Unmarshal(reported.GetStatus()); err != nil || len(status.NodeInfo.BootID) > maxBootID {
		return ""
	}
	return status.NodeInfo.BootID
}

package links

import (
	"sync"
	"time"
)

const (
	// flapTime is how long a lost link may take to be replaced without being noticed, when only few are
	// lost: a device that stays away is told at once.
	flapTime = time.Second
	// stormWindow is the time in which losses count as having one cause, and stormSize how many of them
	// make a storm at least. Of a large fleet it takes one link in stormShare.
	stormWindow = time.Second
	stormSize   = 10
	stormShare  = 100
)

// patience tells a lost device from a lost network. One device that goes is likely to be off; when many
// go in the same second it is the network, a proxy or a broker between, and they are about to come back,
// all of them. To write each off, and back on, would hit the cluster at its worst moment, so they are
// waited for. Controller-manager does likewise in zones in which most Nodes are lost.
type patience struct {
	// grace is how long the devices of a storm may take to come back.
	grace time.Duration

	mu    sync.Mutex
	begin time.Time // of the window
	count int       // of losses in it
	storm time.Time // when there was last known to be one
}

// lost counts a loss, of so many links.
func (p *patience) lost(now time.Time, links int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.begin) >= stormWindow {
		p.begin, p.count = now, 0
	}
	if p.count++; p.count > max(stormSize, links/stormShare) {
		p.storm = now
	}
}

// left is how much longer to wait for the link that was lost at that time.
func (p *patience) left(lost, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := flapTime
	if !p.storm.IsZero() && !p.storm.Before(lost.Add(-stormWindow)) {
		wait = max(wait, p.grace)
	}
	return lost.Add(wait).Sub(now)
}

package node

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// seenTime is how long a Node that was created may take to be seen.
const seenTime = 30 * time.Second

// census counts the Nodes of the cluster. It knows of those that are just being created and not in memory yet,
// so that none is created twice and the count is right while thousands come.
type census struct {
	clock clock.PassiveClock

	mu     sync.Mutex
	count  int                  // of those in memory
	unseen map[string]time.Time // when the others were created, by name
}

// creating notes that a Node is about to be created, and returns how many there will be.
func (c *census) creating(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unseen[name] = c.clock.Now()
	return c.count + len(c.unseen)
}

// failed notes that it was not.
func (c *census) failed(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unseen, name)
}

// seen notes that a Node is in memory.
func (c *census) seen(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unseen, name)
	c.count++
}

// gone notes that one is not any more.
func (c *census) gone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count--
}

// size is how many there are.
func (c *census) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count + len(c.unseen)
}

// awaited says for how much longer to wait for a Node to be seen. One that is not by then came and went.
func (c *census) awaited(name string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	created, ok := c.unseen[name]
	if !ok {
		return 0
	}
	wait := seenTime - c.clock.Since(created)
	if wait <= 0 {
		delete(c.unseen, name)
	}
	return wait
}

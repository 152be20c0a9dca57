package mqtt

import (
	"sync"
	"time"
)

// keepTime is how long a connection to a broker is kept without a link: a little longer than the longest back-off of
// a device that nobody refuses.
const keepTime = 75 * time.Second

// Keeper keeps a device's connection to the broker for the next Dial if it is the server that ends the link over it, or
// does not answer: when aranya is replaced, none of its devices has to connect to the broker anew. It is for the Dialers
// of one device and broker. The zero value is ready for use, nil keeps nothing. All methods may be called concurrently.
type Keeper struct {
	mu     sync.Mutex
	way    *way // nil if there is none
	timer  *time.Timer
	closed bool
}

// keep takes a way over, if it is of use.
func (k *Keeper) keep(w *way) bool {
	if k == nil || isLost(w.client) {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.way != nil {
		return k.way == w
	}
	k.way = w
	k.timer = time.AfterFunc(keepTime, func() {
		if k.drop(w) {
			w.leave()
		}
	})
	return true
}

// take returns a way that is still of use, nil if there is none.
func (k *Keeper) take() *way {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	w := k.way
	k.mu.Unlock()
	if w == nil || !k.drop(w) {
		return nil
	}
	if isLost(w.client) {
		w.leave()
		return nil
	}
	return w
}

// drop forgets a way. It says whether it was there.
func (k *Keeper) drop(w *way) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.way != w {
		return false
	}
	k.timer.Stop()
	k.way, k.timer = nil, nil
	return true
}

// Close leaves the broker, and keeps nothing any more.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	if w := k.take(); w != nil {
		w.leave()
	}
	return nil
}

// Package ondemand runs work in a goroutine only while there is some: what is mostly at rest then needs no
// goroutine that waits, and no stack for it. It knows nothing of what the work is.
package ondemand

import "sync/atomic"

// Worker runs a function whenever there may be something to do, never more than one at a time.
type Worker struct {
	work  func()
	wakes atomic.Int64 // since work was last known to have found nothing more
}

// NewWorker returns a Worker that does nothing yet. The function does all that there is to do, and returns
// instead of waiting for more.
func NewWorker(work func()) *Worker { return &Worker{work: work} }

// Wake has the function run, again if it runs at this moment, and does not wait for it. What happened
// before Wake is seen by the function.
func (w *Worker) Wake() {
	if w.wakes.Add(1) == 1 {
		go w.run()
	}
}

func (w *Worker) run() {
	for seen := int64(1); seen != 0; {
		// Those that come from here on have it run again.
		seen = w.wakes.Load()
		w.work()
		seen = w.wakes.Add(-seen)
	}
}

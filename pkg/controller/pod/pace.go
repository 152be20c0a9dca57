package pod

import (
	"sync"
	"time"

	"arhat.dev/aranya/pkg/controller/queue"
)

// How often what a device reports on one pod, and on all of its pods, is looked at, and written if it changes their
// status. What is reported faster than that waits for its turn, and only the last of it is written.
var (
	podPace    = queue.Pace{Burst: 20, Every: time.Second}
	devicePace = queue.Pace{Burst: 500, Every: 50 * time.Millisecond}
)

// Back-off of a pod that its device says to have removed though it should run.
const (
	minRunAgain = 100 * time.Millisecond
	maxRunAgain = 5 * time.Minute
)

// allowance is what a device has used of its pace, over all of its links.
type allowance struct {
	mu    sync.Mutex
	spent queue.Spent
}

func (a *allowance) wait(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return devicePace.Wait(a.spent, now)
}

// spend notes that the status of a pod is looked at that the device has reported, or is about to be written once more.
func (st *state) spend(p *podState, now time.Time) {
	st.spent.spend(now)
	st.mu.Lock()
	defer st.mu.Unlock()
	podPace.Spend(&p.spent, now)
}

func (a *allowance) spend(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	devicePace.Spend(&a.spent, now)
}

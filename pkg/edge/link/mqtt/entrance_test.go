package mqtt

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// doorman is an entrance whose devices do what the test says.
type doorman struct {
	*entrance
	mu      sync.Mutex
	in      []string // topics in the order of letting in
	entries map[string]*entry
	refuse  bool
}

func newDoorman() *doorman {
	d := &doorman{entries: map[string]*entry{}}
	d.entrance = newEntrance(func(r *request, e *entry) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.in = append(d.in, r.up)
		d.entries[r.up] = e
		return !d.refuse
	})
	return d
}

func (d *doorman) come(first, n int) (waiting int) {
	for i := range n {
		if d.ask(&request{up: fmt.Sprint(first + i), frame: frame{id: connID{device: uint64(first + i)}}}) {
			waiting++
		}
	}
	return waiting
}

func TestEntrance(t *testing.T) {
	d := newDoorman()
	defer d.close()
	if n := d.come(0, maxEntering+3); n != 3 || len(d.in) != maxEntering {
		t.Fatalf("%d wait, %d were let in", n, len(d.in))
	}
	if n := d.come(maxEntering, 1); n != 1 || d.queue.Len() != 3 {
		t.Errorf("one that asks again: %d wait, the queue has %d", n, d.queue.Len())
	}
	if n := d.come(5, 1); n != 0 || len(d.in) != maxEntering+1 {
		t.Errorf("one that begins anew was not let in")
	}
	d.forget(fmt.Sprint(maxEntering+1), 99) // another connection of the device
	d.forget(fmt.Sprint(maxEntering+1), maxEntering+1)
	for _, topic := range []string{"7", "7", "8", "9"} {
		d.entries[topic].leave()
	}
	if got, want := d.in[maxEntering+1:], []string{fmt.Sprint(maxEntering), fmt.Sprint(maxEntering + 2)}; !slices.Equal(got, want) {
		t.Errorf("%v were let in, not %v", got, want)
	}
	if len(d.entering) != maxEntering-1 || len(d.waiting) != 0 {
		t.Errorf("%d are entering, %d wait", len(d.entering), len(d.waiting))
	}
}

func TestEntranceRefuses(t *testing.T) {
	d := newDoorman()
	defer d.close()
	d.come(0, 3*maxEntering)
	d.refuse = true
	d.entries["0"].leave()
	if len(d.in) != 3*maxEntering || len(d.entering) != maxEntering-1 {
		t.Errorf("%d were asked for, %d are entering", len(d.in), len(d.entering))
	}
	d.come(5000, 10)
	if len(d.entering) != maxEntering-1 {
		t.Errorf("%d are entering", len(d.entering))
	}
}

func TestSlowDevicesDoNotBlockTheEntrance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoorman()
		defer d.close()
		d.come(0, 2*maxEntering)
		time.Sleep(enteringTime)
		synctest.Wait()
		if len(d.entering) != maxEntering || len(d.waiting) != 0 {
			t.Errorf("%d are entering, %d wait", len(d.entering), len(d.waiting))
		}
		d.entries["0"].leave() // late
		if len(d.entering) != maxEntering {
			t.Errorf("%d are entering", len(d.entering))
		}
	})
}

func TestThoseWhoAreGoneAreNotLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoorman()
		defer d.close()
		d.come(0, maxEntering)
		d.come(1000, 1)
		d.come(1001, 1)
		for range 2 * waitingTime / enteringTime { // entering devices come again and again; one of those that wait does not ask again
			time.Sleep(enteringTime * 3 / 4)
			d.come(0, maxEntering)
			d.come(1001, 1)
		}
		d.entries["0"].leave()
		if last := d.in[len(d.in)-1]; last != "1001" {
			t.Errorf("%s was let in", last)
		}
	})
}

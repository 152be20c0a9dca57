package controller

import (
	"strconv"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"arhat.dev/aranya/test/framework/eventually"
)

// What a device reports of a pod again and again is written at once for a while, then in turn, and the last of it in
// any case.
func TestStatusesOfAPodAreLimited(t *testing.T) {
	ed := edgeDevice("d1")
	clock := clocktesting.NewFakeClock(time.Now())
	c := newClusterAt(t, clock, time.Hour, ed, ownNode(ed), edgePod("p", "d1"), edgePod("q", "d1"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pods sent", func() bool { return len(s.runs()) == 2 })
	report := func(name string, i int) {
		status := running()
		status.Message = strconv.Itoa(i)
		c.report(s, c.pod(name), status)
	}
	const atOnce, burst, all = 8, 20, 30 // an informer that lags behind may have one written twice
	since := clock.Now()
	for i := range atOnce {
		report("p", i)
		eventually.Holds(t, "written at once", func() bool { return c.pod("p").Status.Message == strconv.Itoa(i) })
	}
	for i := atOnce; i < all; i++ {
		report("p", i)
		eventually.Holds(t, "written in turn", func() bool {
			if c.pod("p").Status.Message == strconv.Itoa(i) {
				return true
			}
			clock.Step(100 * time.Millisecond)
			return false
		})
	}
	if waited := clock.Since(since); waited < (all-burst)*time.Second {
		t.Errorf("%d were written within %s", all, waited)
	}
	for i := range 2 * burst {
		report("p", all+i)
	}
	report("q", 1)
	eventually.Holds(t, "another pod does not wait", func() bool { return c.pod("q").Status.Message == "1" })
	eventually.Holds(t, "the last one", func() bool {
		clock.Step(100 * time.Millisecond)
		return c.pod("p").Status.Message == strconv.Itoa(all+2*burst-1)
	})
}

// A device that says that a pod is gone each time that it gets it gets it ever less often.
func TestRemovedAgainAndAgain(t *testing.T) {
	ed := edgeDevice("d1")
	clock := clocktesting.NewFakeClock(time.Now())
	c := newClusterAt(t, clock, time.Hour, ed, ownNode(ed), edgePod("p", "d1"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	backoff := 100 * time.Millisecond
	for n := 2; n < 8; n++ {
		since := clock.Now()
		c.removed(s, c.pod("p"), nil)
		eventually.Holds(t, "sent again", func() bool {
			if len(s.runs()) == n {
				return true
			}
			clock.Step(50 * time.Millisecond)
			return false
		})
		if waited := clock.Since(since); waited < backoff {
			t.Errorf("sent for the %d. time after %s, want at least %s", n, waited, backoff)
		}
		backoff *= 2
	}
}

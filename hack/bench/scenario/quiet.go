package scenario

import (
	"context"
	"time"

	"arhat.dev/aranya/hack/bench/harness"
)

const (
	// quietRate is more than what leader elections, the Leases of a few Nodes, and the events of one client that is
	// held to 20/s come to, in writes per second.
	quietRate = 30
	quietSpan = 2 * time.Second
	// quietLimit is how long to wait at most.
	quietLimit = 2 * time.Minute
)

// waitQuiet waits until the control plane has done most of what is left from before: a controller-manager without a
// limit writes hundreds of events in a second about Nodes that have gone, and would take what is measured next a part of
// the machine.
func waitQuiet(ctx context.Context, r *harness.Run) error {
	begin := time.Now()
	last, err := measureKube(ctx, r)
	if err != nil {
		return err
	}
	for {
		if err := sleep(ctx, quietSpan); err != nil {
			return err
		}
		revision, err := measureKube(ctx, r)
		if err != nil {
			return err
		}
		writes := revision - last
		switch waited := time.Since(begin).Round(time.Second); {
		case writes <= quietRate*int64(quietSpan/time.Second):
			r.Log("waited %s until the control plane was at rest", waited)
			return nil
		case waited > quietLimit:
			r.Log("the control plane is not at rest after %s: %d writes in %s", waited, writes, quietSpan)
			return nil
		}
		last = revision
	}
}

package harness

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Workers is how many clients put load on an API server at the same time.
const Workers = 50

func dialer() func(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
}

// Parallel calls do with 0 to n-1, by as many workers at a time, and returns how long it all took. It
// ends at the first error.
func Parallel(ctx context.Context, n, workers int, do func(ctx context.Context, i int) error) (time.Duration, error) {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range min(workers, n) {
		group.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	err := group.Wait()
	return time.Since(begin), err
}

// Rate is how many of n things were done per second.
func Rate(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }

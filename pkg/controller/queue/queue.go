// Package queue runs work queues in the way that all controllers here do. What is queued, and what is
// done about it, belongs into the controllers.
package queue

import (
	"context"
	"sync"
	"time"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/util/workqueue"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // the queues' metrics
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Back-off of an item that fails again and again.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// New returns a queue with exponential back-off per item. The name appears in the metrics.
func New[T comparable](name string, clock clock.WithTicker) workqueue.TypedRateLimitingInterface[T] {
	return NewWithBackoff[T](name, clock, maxBackoff)
}

// NewWithBackoff is New with another limit of the back-off.
func NewWithBackoff[T comparable](name string, clock clock.WithTicker, limit time.Duration) workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[T](minBackoff, limit),
		workqueue.TypedRateLimitingQueueConfig[T]{Name: "aranya_" + name, Clock: clock},
	)
}

// Run works on a queue until ctx ends and returns when all workers have. An item is never worked on
// twice at the same time. If the work fails it is logged and done again after a back-off; otherwise,
// if again is not 0, it is done again after that time.
func Run[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], workers int, work func(ctx context.Context, item T) (again time.Duration, err error)) {
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for next(ctx, q, work) {
			}
		})
	}
	<-ctx.Done()
	q.ShutDown()
	running.Wait()
}

func next[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], work func(context.Context, T) (time.Duration, error)) (more bool) {
	item, stopped := q.Get()
	if stopped {
		return false
	}
	more = true // also after a panic, where that does not end the process
	defer q.Done(item)
	defer utilruntime.HandleCrashWithContext(ctx)
	if ctx.Err() != nil {
		return more // drain
	}
	again, err := work(ctx, item)
	switch {
	case err != nil && ctx.Err() == nil:
		klog.FromContext(ctx).V(2).Info("Will try again", "item", item, "err", err)
		q.AddRateLimited(item)
	case again > 0:
		q.Forget(item)
		q.AddAfter(item, again)
	default:
		q.Forget(item)
	}
	return more
}

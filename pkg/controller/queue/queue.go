// Package queue runs work queues in the way that all controllers here do. What is queued, and what is
// done about it, belongs into the controllers.
package queue

import (
	"context"
	"math/bits"
	"sync"
	"time"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/util/flowcontrol"
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

// An item that fails again and again is logged when it has failed this often, some seconds after the first time, and each
// time that the number has doubled. All items of a queue together have a few lines, and then one in a while.
const (
	loggedFailures = 8
	loggedAtOnce   = 10
	loggedPerTime  = 0.1 // a second
)

// Run works on a queue until ctx ends and returns when all workers have. An item is never worked on
// twice at the same time. If the work fails it is done again after a back-off, and logged if it goes on failing;
// otherwise, if again is not 0, it is done again after that time.
func Run[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], workers int, work func(ctx context.Context, item T) (again time.Duration, err error)) {
	var running sync.WaitGroup
	lines := flowcontrol.NewTokenBucketPassiveRateLimiter(loggedPerTime, loggedAtOnce)
	for range workers {
		running.Go(func() {
			for next(ctx, q, lines, work) {
			}
		})
	}
	<-ctx.Done()
	q.ShutDown()
	running.Wait()
}

func next[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], lines flowcontrol.PassiveRateLimiter, work func(context.Context, T) (time.Duration, error)) (more bool) {
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
		q.AddRateLimited(item)
		if n := q.NumRequeues(item); n >= loggedFailures && bits.OnesCount(uint(n)) == 1 && lines.TryAccept() {
			klog.FromContext(ctx).Error(err, "Fails again and again, and is tried further", "item", item, "failures", n)
		} else {
			klog.FromContext(ctx).V(2).Info("Will try again", "item", item, "err", err)
		}
	case again > 0:
		q.Forget(item)
		q.AddAfter(item, again)
	default:
		q.Forget(item)
	}
	return more
}

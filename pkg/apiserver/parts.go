package apiserver

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/klog/v2"
)

// part is something that runs beside the HTTP server for as long as that does.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// parts runs parts. They are stopped in the reverse order of their start, each after the one before
// has returned, because a part may use those that were started before it.
type parts struct {
	// failed is called with the reason when a part ends without being asked to.
	failed func(error)

	mu      sync.Mutex
	running []*runningPart
	stopped bool
}

type runningPart struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

// start runs a part. It is a no-op after stop.
func (p *parts) start(ctx context.Context, one part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	// A part ends when its turn has come, not when the server is told to stop.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &runningPart{name: one.name, cancel: cancel, done: make(chan struct{})}
	p.running = append(p.running, r)
	go func() {
		defer close(r.done)
		ctx := klog.NewContext(ctx, klog.FromContext(ctx).WithName(one.name))
		err := one.run(ctx)
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				klog.FromContext(ctx).Error(err, "Did not stop cleanly")
			}
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		p.failed(fmt.Errorf("%s: %w", one.name, err))
	}()
}

// stop stops all parts, or gives up waiting when ctx ends.
func (p *parts) stop(ctx context.Context) error {
	p.mu.Lock()
	running := p.running
	p.running, p.stopped = nil, true
	p.mu.Unlock()
	var errs []error
	for i := len(running) - 1; i >= 0; i-- {
		r := running[i]
		r.cancel()
		select {
		case <-r.done:
			klog.FromContext(ctx).V(2).Info("Stopped", "part", r.name)
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("%s did not stop in time", r.name))
		}
	}
	return errors.Join(errs...)
}

package apiserver

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorder notes what happens in order.
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) note(event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event)
}

func TestPartsStopInReverseOrderOneByOne(t *testing.T) {
	var r recorder
	p := parts{failed: func(err error) { t.Error(err) }}
	ctx, cancel := context.WithCancel(t.Context())
	for _, name := range []string{"a", "b", "c"} {
		began := make(chan struct{})
		p.start(ctx, part{name, func(ctx context.Context) error {
			close(began)
			<-ctx.Done()
			r.note("end " + name)
			return nil
		}})
		<-began
	}
	// The server is told to stop: nothing ends by that alone.
	cancel()
	r.note("stop")
	if err := p.stop(context.Background()); err != nil {
		t.Error(err)
	}
	if want := []string{"stop", "end c", "end b", "end a"}; !slices.Equal(r.events, want) {
		t.Errorf("got %q, want %q", r.events, want)
	}
	p.start(context.Background(), part{"late", func(context.Context) error { t.Error("started after stop"); return nil }})
}

func TestPartThatEndsIsAFailure(t *testing.T) {
	for name, result := range map[string]error{"ended by itself": nil, "out of luck": errors.New("out of luck")} {
		t.Run(name, func(t *testing.T) {
			failed := make(chan error, 1)
			p := parts{failed: func(err error) { failed <- err }}
			p.start(t.Context(), part{"gateway", func(context.Context) error { return result }})
			if err := <-failed; err.Error() != "gateway: "+name {
				t.Errorf("got %v", err)
			}
			if err := p.stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPartThatHangsIsNamed(t *testing.T) {
	p := parts{failed: func(err error) { t.Error(err) }}
	release, ended := make(chan struct{}), make(chan struct{})
	p.start(t.Context(), part{"first", func(ctx context.Context) error { <-ctx.Done(); close(ended); return ctx.Err() }})
	p.start(t.Context(), part{"stuck", func(context.Context) error { <-release; return nil }})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.stop(ctx); err == nil || !strings.Contains(err.Error(), "stuck did not stop in time") {
		t.Errorf("got %v", err)
	}
	<-ended // the others are stopped nevertheless
	close(release)
}

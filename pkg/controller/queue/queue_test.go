package queue

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	// A worker that panics must not take the others with it.
	before := utilruntime.ReallyCrash
	utilruntime.ReallyCrash = false
	defer func() { utilruntime.ReallyCrash = before }()

	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	q := New[string]("test", clock.RealClock{})
	calls := make(chan string, 100)
	times := map[string]int{}
	for _, item := range []string{"fails", "panics", "again", "once"} {
		q.Add(item)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Run(ctx, q, 1, func(_ context.Context, item string) (time.Duration, error) {
			times[item]++ // one worker: no lock needed
			calls <- item
			switch {
			case item == "fails" && times[item] == 1:
				return 0, errors.New("failed")
			case item == "panics":
				panic("on purpose")
			case item == "again" && times[item] == 1:
				return time.Millisecond, nil
			}
			return 0, nil
		})
	}()
	for range 6 { // two of them twice
		select {
		case <-calls:
		case <-ctx.Done():
			t.Fatal("not everything was worked on")
		}
	}
	cancel()
	<-done
	want := map[string]int{"fails": 2, "panics": 1, "again": 2, "once": 1}
	for item, n := range want {
		if times[item] != n {
			t.Errorf("%s: %d times, want %d", item, times[item], n)
		}
	}
}

func TestWritten(t *testing.T) {
	node := func(version, label string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: version, Labels: map[string]string{"l": label}}}
	}
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	written := Written(store)
	read := func() string {
		object, exists, err := written.GetByKey("n")
		if err != nil || !exists {
			return ""
		}
		return object.(*corev1.Node).Labels["l"]
	}
	put := func(n *corev1.Node) {
		if err := store.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	written.Mutation(node("5", "written"))
	if got := read(); got != "" {
		t.Errorf("what the informer does not know: %q", got)
	}
	put(node("4", "stale"))
	if got := read(); got != "written" {
		t.Errorf("read %q, want what was written", got)
	}
	put(node("6", "newer"))
	if got := read(); got != "newer" {
		t.Errorf("read %q, want what is newer", got)
	}
}

func TestStripManagedFields(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "x"}}}}
	if _, err := StripManagedFields(n); err != nil || n.ManagedFields != nil {
		t.Errorf("%v %v", n.ManagedFields, err)
	}
	if object, err := StripManagedFields("no object"); err != nil || object != "no object" {
		t.Errorf("%v %v", object, err)
	}
}

// What fails again and again must be found in the log of a server that logs no more than it must; and must not fill it.
func TestLogOfFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		items, failures int
		min, max        int
	}{
		"passes":             {items: 1, failures: loggedFailures - 1},
		"goes on":            {items: 1, failures: 4 * loggedFailures, min: 3, max: 3},
		"everything goes on": {items: 100, failures: loggedFailures, min: loggedAtOnce, max: 99},
	} {
		t.Run(name, func(t *testing.T) {
			logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true), ktesting.Verbosity(0)))
			ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logger))
			defer cancel()
			q := &soonQueue[int]{TypedRateLimitingInterface: New[int]("test", clock.RealClock{})}
			left := tt.items
			failed := map[int]int{}
			for item := range tt.items {
				q.Add(item)
			}
			Run(ctx, q, 1, func(_ context.Context, item int) (time.Duration, error) {
				if failed[item]++; failed[item] <= tt.failures {
					return 0, errors.New("no luck")
				}
				if left--; left == 0 {
					cancel()
				}
				return 0, nil
			})
			lines := strings.Count(logger.GetSink().(ktesting.Underlier).GetBuffer().String(), "no luck")
			if lines < tt.min || lines > tt.max {
				t.Errorf("%d lines, want %d to %d", lines, tt.min, tt.max)
			}
		})
	}
}

// soonQueue does at once again what has failed.
type soonQueue[T comparable] struct {
	workqueue.TypedRateLimitingInterface[T]
	failures map[T]int
}

func (q *soonQueue[T]) AddRateLimited(item T) {
	if q.failures == nil {
		q.failures = map[T]int{}
	}
	q.failures[item]++
	q.Add(item)
}
func (q *soonQueue[T]) NumRequeues(item T) int { return q.failures[item] }
func (q *soonQueue[T]) Forget(item T)          { delete(q.failures, item) }

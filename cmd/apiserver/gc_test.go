package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

func TestPercentFor(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		name               string
		floor, heap, roots uint64
		want               int
	}{
		{"just started", 512 * mib, 2 * mib, 4 * mib, 12750},
		{"a thousand devices", 512 * mib, 80 * mib, 90 * mib, 480},
		{"half of the floor", 512 * mib, 256 * mib, 256 * mib, 100},
		{"more than half of the floor", 512 * mib, 300 * mib, 320 * mib, 100},
		{"beyond the floor", 512 * mib, 900 * mib, 950 * mib, 100},
		{"no collection yet", 512 * mib, 0, 0, 100},
		{"little memory", 8 * mib, 6 * mib, 7 * mib, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := percentFor(c.floor, c.heap, c.roots); got != c.want {
				t.Errorf("got %d %%, want %d %%", got, c.want)
			}
		})
	}
}

func TestCollectLate(t *testing.T) {
	t.Setenv("GOGC", "")
	stop := collectLate(64 << 20)
	defer debug.SetGCPercent(gcPercent)
	defer stop()
	becomes := func(what string, ok func(percent uint64) bool) {
		t.Helper()
		if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
			runtime.GC()
			return ok(percentNow()), nil
		}); err != nil {
			t.Errorf("GOGC is %d with %s: %v", percentNow(), what, err)
		}
	}
	becomes("a small heap", func(p uint64) bool { return p > gcPercent })
	large := make([]byte, 64<<20)
	becomes("a large heap", func(p uint64) bool { return p == gcPercent })
	runtime.KeepAlive(large)
	becomes("a small heap again", func(p uint64) bool { return p > gcPercent })
}

func TestCollectAsTold(t *testing.T) {
	t.Setenv("GOGC", "50")
	before := percentNow()
	defer collectLate(64 << 20)()
	for range 3 { // each tells of the one before
		runtime.GC()
	}
	if now := percentNow(); now != before {
		t.Errorf("GOGC became %d, though the environment has it", now)
	}
}

func percentNow() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

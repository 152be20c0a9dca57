package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	// heapFloor is what the heap may grow to before garbage is collected, in bytes. While thousands of
	// devices arrive most of what is allocated is garbage at once, and with the little that stays the
	// collector would run several times a second. Beyond half of it the heap doubles between two
	// collections, as in any Go program. At rest little is needed: Go collects every two minutes anyway.
	heapFloor = 512 << 20
	// gcPercent is Go's own default of GOGC.
	gcPercent = 100
)

// collectLate has garbage collected as with GOGC=100, but no heap of less than floor bytes, or half of
// GOMEMLIMIT if that is less, until stop is called. It does nothing if the environment has GOGC.
func collectLate(floor uint64) (stop func()) {
	var mu sync.Mutex
	stopped := false
	if os.Getenv("GOGC") == "" {
		floor = min(floor, uint64(debug.SetMemoryLimit(-1))/2)
		afterCollection(func() bool {
			mu.Lock()
			defer mu.Unlock()
			if !stopped {
				adjustPercent(floor)
			}
			return !stopped
		})
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}
}

// afterCollection calls f after each garbage collection, of which an object that nobody holds tells,
// until f returns false.
func afterCollection(f func() (again bool)) {
	sentinel := new([16]byte) // smaller ones may share memory with others that live on
	runtime.AddCleanup(sentinel, func(f func() bool) {
		if f() {
			afterCollection(f)
		}
	}, f)
}

func adjustPercent(floor uint64) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}, {Name: "/gc/gogc:percent"},
	}
	metrics.Read(samples)
	heap := samples[0].Value.Uint64()
	percent := percentFor(floor, heap, heap+samples[1].Value.Uint64()+samples[2].Value.Uint64())
	if uint64(percent) != samples[3].Value.Uint64() {
		debug.SetGCPercent(percent)
	}
}

// percentFor returns the value of GOGC with which the next collection begins at floor bytes, after one
// that left heap bytes alive and found roots to grow in proportion to (the heap, stacks and globals:
// https://go.dev/doc/gc-guide#GOGC).
func percentFor(floor, heap, roots uint64) int {
	if heap >= floor || roots == 0 {
		return gcPercent
	}
	return int(min(max((floor-heap)*100/roots, gcPercent), math.MaxInt32))
}

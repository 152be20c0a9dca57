// Package measure takes the figures of benchmarks: latencies, the CPU and memory of processes, writes
// at an API server, and what an onlooker sees of a busy one. It knows nothing of what is measured and
// judges nothing.
package measure

import (
	"math"
	"slices"
	"sync"
	"time"
)

// Samples collects durations. It may be used concurrently.
type Samples struct {
	mu     sync.Mutex
	values []time.Duration
}

// Add adds a sample.
func (s *Samples) Add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values = append(s.values, d)
}

// Time adds how long f takes, unless it fails.
func (s *Samples) Time(f func() error) error {
	begin := time.Now()
	if err := f(); err != nil {
		return err
	}
	s.Add(time.Since(begin))
	return nil
}

// Len is the number of samples.
func (s *Samples) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

// Quantile returns the smallest sample that at least the fraction q of the samples do not exceed (the
// nearest-rank method): raw samples, nothing is interpolated. Without samples it is 0.
func (s *Samples) Quantile(q float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.values))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// Median is the quantile 0.5.
func (s *Samples) Median() time.Duration { return s.Quantile(0.5) }

// Point is a value at a time since the series began.
type Point struct {
	Seconds float64 `json:"seconds"`
	Value   float64 `json:"value"`
}

// maxPoints bounds a series; beyond it every other point is dropped.
const maxPoints = 2000

// Series is a value over time. It may be used concurrently.
type Series struct {
	// Plot is the title of the plot that the series is part of; Name tells it from others there.
	Plot, Name string
	// Unit of the values.
	Unit string

	mu     sync.Mutex
	begin  time.Time
	points []Point
}

// NewSeries returns a series that begins now.
func NewSeries(plot, name, unit string) *Series {
	return &Series{Plot: plot, Name: name, Unit: unit, begin: time.Now()}
}

// Add adds the value at this moment.
func (s *Series) Add(value float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points = append(s.points, Point{Seconds: time.Since(s.begin).Seconds(), Value: value})
	if len(s.points) > maxPoints {
		kept := s.points[:0]
		for i := 0; i < len(s.points); i += 2 {
			kept = append(kept, s.points[i])
		}
		s.points = kept
	}
}

// Points returns what was added so far.
func (s *Series) Points() []Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.points)
}

// Max is the largest value, 0 without any.
func (s *Series) Max() float64 {
	var largest float64
	for _, p := range s.Points() {
		largest = max(largest, p.Value)
	}
	return largest
}

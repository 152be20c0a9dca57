package measure

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	tests := []struct {
		name string
		n    int // samples of 1ns, 2ns, ... nns
		q    float64
		want time.Duration
	}{
		{"none", 0, 0.5, 0},
		{"one", 1, 0.99, 1},
		{"median of an even number", 10, 0.5, 5},
		{"median of an odd number", 11, 0.5, 6},
		{"p99 of 100", 100, 0.99, 99},
		{"p99 of few is the largest", 20, 0.99, 20},
		{"smallest", 10, 0, 1},
		{"largest", 10, 1, 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Samples
			for i := tt.n; i > 0; i-- {
				s.Add(time.Duration(i))
			}
			if got := s.Quantile(tt.q); got != tt.want {
				t.Errorf("Quantile(%v) of %d = %v, want %v", tt.q, tt.n, got, tt.want)
			}
		})
	}
}

func TestSeriesIsBounded(t *testing.T) {
	s := NewSeries("plot", "name", "unit")
	for i := range 5 * maxPoints {
		s.Add(float64(i))
	}
	points := s.Points()
	if len(points) > maxPoints {
		t.Errorf("%d points", len(points))
	}
	if first := points[0].Value; first != 0 {
		t.Errorf("the series begins with %v", first)
	}
	for i := 1; i < len(points); i++ {
		if points[i].Value <= points[i-1].Value {
			t.Fatalf("out of order at %d: %v", i, points[i-1:i+1])
		}
	}
}

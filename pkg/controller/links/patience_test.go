package links

import (
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	const grace = time.Minute
	start := time.Unix(1_000_000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for name, tt := range map[string]struct {
		links int
		lost  []int // ms since the start
		// of and now are when the link in question was lost and when that is asked
		of, now int
		want    time.Duration
	}{
		"one":                                 {links: 1000, lost: []int{0}, of: 0, now: 400, want: 600 * time.Millisecond},
		"one, later":                          {links: 1000, lost: []int{0}, of: 0, now: 1500, want: -500 * time.Millisecond},
		"few":                                 {links: 20, lost: repeat(stormSize, 0), of: 0, now: 1000, want: 0},
		"many":                                {links: 20, lost: repeat(stormSize+1, 0), of: 0, now: 1000, want: grace - time.Second},
		"few of many":                         {links: 10000, lost: repeat(100, 0), of: 0, now: 1000, want: 0},
		"many of many":                        {links: 10000, lost: repeat(101, 0), of: 0, now: 1000, want: grace - time.Second},
		"the first of a storm":                {links: 20, lost: append([]int{0}, repeat(stormSize, 900)...), of: 0, now: 1000, want: grace - time.Second},
		"the last of a storm":                 {links: 20, lost: append(repeat(stormSize+1, 0), 950), of: 950, now: 1950, want: grace - time.Second},
		"after a storm":                       {links: 20, lost: append(repeat(stormSize+1, 0), 3000), of: 3000, now: 4000, want: 0},
		"a storm does not go on for ever":     {links: 20, lost: repeat(stormSize+1, 0), of: 0, now: 61_000, want: -time.Second},
		"as many, but one after the other":    {links: 20, lost: spread(4*stormSize, 250), of: 10_000 - 250, now: 10_750, want: 0},
		"a slow storm is one for all it hits": {links: 1000, lost: spread(4*stormSize, 50), of: 2000 - 50, now: 2950, want: grace - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			p := patience{grace: grace}
			for _, ms := range tt.lost {
				p.lost(at(ms), tt.links)
			}
			if got := p.left(at(tt.of), at(tt.now)); got != tt.want {
				t.Errorf("to wait: %s, want %s", got, tt.want)
			}
		})
	}
}

func repeat(n, ms int) []int {
	times := make([]int, n)
	for i := range times {
		times[i] = ms
	}
	return times
}

func spread(n, every int) []int {
	times := make([]int, n)
	for i := range times {
		times[i] = i * every
	}
	return times
}

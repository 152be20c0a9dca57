package queue

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	start := time.Unix(1e9, 0)
	for name, tt := range map[string]struct {
		pace Pace
		at   []time.Duration // when it is done
		now  time.Duration
		want time.Duration
	}{
		"never done":          {pace: Pace{2, time.Second}},
		"once":                {pace: Pace{1, time.Second}, at: []time.Duration{0}, want: time.Second},
		"some time ago":       {pace: Pace{1, time.Second}, at: []time.Duration{0}, now: time.Minute},
		"within the burst":    {pace: Pace{3, time.Second}, at: []time.Duration{0, 0}},
		"after the burst":     {pace: Pace{3, time.Second}, at: []time.Duration{0, 0, 0}, want: time.Second},
		"a while after it":    {pace: Pace{3, time.Second}, at: []time.Duration{0, 0, 0}, now: 400 * time.Millisecond, want: 600 * time.Millisecond},
		"more than the burst": {pace: Pace{2, time.Second}, at: []time.Duration{0, 0, 0}, want: 2 * time.Second},
		"it is not saved up":  {pace: Pace{2, time.Second}, at: []time.Duration{0, time.Hour, time.Hour}, now: time.Hour, want: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var spent Spent
			for _, at := range tt.at {
				tt.pace.Spend(&spent, start.Add(at))
			}
			if got := tt.pace.Wait(spent, start.Add(tt.now)); got != tt.want {
				t.Errorf("wait %s, want %s", got, tt.want)
			}
		})
	}
}

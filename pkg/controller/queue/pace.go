package queue

import "time"

// Pace is how often something may be done: Burst times at once, and then once in Every.
type Pace struct {
	Burst int
	Every time.Duration
}

// Spent is how much of a Pace was used. The zero value is nothing.
type Spent struct {
	until time.Time // when it is nothing again
}

// Wait says for how long it may not be done again.
func (p Pace) Wait(s Spent, now time.Time) time.Duration {
	if s.until.Before(now) {
		return 0
	}
	return max(0, s.until.Sub(now)-time.Duration(p.Burst-1)*p.Every)
}

// Spend notes that it is done.
func (p Pace) Spend(s *Spent, now time.Time) {
	if s.until.Before(now) {
		s.until = now
	}
	s.until = s.until.Add(p.Every)
}

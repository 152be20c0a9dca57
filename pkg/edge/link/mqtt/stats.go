package mqtt

import "sync/atomic"

// Stats counts what came from a broker and was not taken.
type Stats struct {
	// Foreign frames are of no connection that is known, or not for this end.
	Foreign int64
	// Malformed are payloads that are no frames.
	Malformed int64
	// Oversized payloads exceed BrokerConfig.MaxPayload.
	Oversized int64
	// Duplicates are frames that had come before.
	Duplicates int64
	// Gaps are connections that were reset because a frame was missing.
	Gaps int64
	// Refused are connections that were not accepted.
	Refused int64
	// Dropped are answers that were not sent because too many were waiting.
	Dropped int64
}

type counters struct {
	foreign, malformed, oversized, duplicates, gaps, refused, dropped atomic.Int64
}

func (c *counters) stats() Stats {
	return Stats{
		Foreign: c.foreign.Load(), Malformed: c.malformed.Load(), Oversized: c.oversized.Load(),
		Duplicates: c.duplicates.Load(), Gaps: c.gaps.Load(), Refused: c.refused.Load(), Dropped: c.dropped.Load(),
	}
}

// decode reads a message's frame, or counts why not.
func (c *counters) decode(payload []byte, limit int) (frame, bool) {
	if len(payload) > limit {
		c.oversized.Add(1)
		return frame{}, false
	}
	f, err := decodeFrame(payload)
	if err != nil {
		c.malformed.Add(1)
		return frame{}, false
	}
	return f, true
}

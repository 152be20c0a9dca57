package mqtt

import "sync/atomic"

// counters count what came from a broker and was not taken.
type counters struct {
	foreign    atomic.Int64 // frames of no connection that is known, or not for this end
	malformed  atomic.Int64 // payloads that are no frames
	oversized  atomic.Int64 // payloads that exceed BrokerConfig.MaxPayload
	duplicates atomic.Int64 // frames that had come before
	gaps       atomic.Int64 // connections that were reset because a frame was missing
	refused    atomic.Int64 // connections that were not accepted
	dropped    atomic.Int64 // answers that were not sent because too many were waiting
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

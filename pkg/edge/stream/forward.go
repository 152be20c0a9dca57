package stream

import (
	"io"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// Forward has what comes on a channel that the peer writes written to w, and then calls done once, with what
// io.Copy(w, s.Reader(ch)) would return. It returns at once, and no goroutine waits meanwhile. It takes the place
// of all reading of the channel.
func (s *Stream) Forward(ch edgeapi.Channel, w io.Writer, done func(error)) {
	s.reader(ch).forward(w, done)
}

// forward begins it. Receiving goes on while w is slow, as far as the queue reaches: only so the end of the call
// is noticed.
func (r *reader) forward(w io.Writer, done func(error)) { r.forwarder.Begin(r.next, w, done) }

// next returns what has come, without waiting for it.
func (r *reader) next() ([]byte, error) {
	if some, err := r.poll(); err != nil || !some {
		return nil, err
	}
	data := r.rest
	r.rest = nil
	return data, nil
}

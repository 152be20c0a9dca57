package spdy

import "io"

// Forward has what comes written to w until the end, and then calls done with the error of reading or writing,
// if there was one. It returns at once, no goroutine waits meanwhile, and it takes the place of all reading. The
// connection is read while w is slow, as far as the queue reaches.
func (s *Stream) Forward(w io.Writer, done func(error)) { s.forwarder.Begin(s.next, w, done) }

// next returns what has come, without waiting for it. The end of the connection is an end of the stream, too.
func (s *Stream) next() ([]byte, error) {
	select {
	case <-s.gone:
		return nil, ErrReset
	default:
	}
	if data := s.rest; len(data) > 0 {
		s.rest = nil
		return data, nil
	}
	select {
	case data, ok := <-s.data:
		if !ok {
			return nil, io.EOF
		}
		return data, nil
	default:
		return nil, nil
	}
}

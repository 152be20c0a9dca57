package spdy

import (
	"bytes"
	"errors"
	"testing"

	"k8s.io/streaming/pkg/httpstream"
)

// sink tells what it got when it is asked, and refuses what goes beyond its room.
type sink struct {
	bytes.Buffer
	room int
}

var errFull = errors.New("full")

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	if s.Len()+len(p) > s.room {
		return 0, errFull
	}
	return s.Buffer.Write(p)
}

// What came before Forward is written as well, in order, and each way to end is told once.
func TestForward(t *testing.T) {
	for name, test := range map[string]struct {
		room int
		end  func(far httpstream.Stream, near *Stream) error
		want error
	}{
		"half-close":       {1 << 20, func(far httpstream.Stream, _ *Stream) error { return far.Close() }, nil},
		"reset by client":  {1 << 20, func(far httpstream.Stream, _ *Stream) error { return far.Reset() }, ErrReset},
		"reset by server":  {1 << 20, func(_ httpstream.Stream, near *Stream) error { return near.Reset() }, ErrReset},
		"error of writing": {10, func(far httpstream.Stream, _ *Stream) error { return far.Close() }, errFull},
	} {
		t.Run(name, func(t *testing.T) {
			streams := make(chan *Stream, 1)
			client, _ := serve(t, usual, func(s *Stream) (func(func()), error) {
				return func(done func()) { streams <- s; done() }, nil
			})
			far := open(t, client, "x")
			near := wait(t, streams)
			if _, err := far.Write([]byte("before")); err != nil {
				t.Fatal(err)
			}
			out := &sink{room: test.room}
			ends := make(chan error, 2)
			near.Forward(out, func(err error) { ends <- err })
			if _, err := far.Write([]byte(" and after")); err != nil {
				t.Fatal(err)
			}
			if err := test.end(far, near); err != nil {
				t.Fatal(err)
			}
			if err := wait(t, ends); !errors.Is(err, test.want) {
				t.Errorf("ended with %v", err)
			}
			if got := out.String(); name == "half-close" && got != "before and after" || name == "error of writing" && got != "before" {
				t.Errorf("wrote %q", got)
			}
			near.forwarder.Wake() // nothing comes of it
			if len(ends) > 0 {
				t.Error("the end was told twice")
			}
		})
	}
}

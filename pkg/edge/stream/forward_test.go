package stream_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// What came before Forward is written as well, in order, with more than the queue holds.
func TestForward(t *testing.T) {
	p := newPair(t, false)
	near, far := p.server.Conn(), p.device.Conn()
	want := bytes.Repeat([]byte("0123456789abcdef"), 40000)
	if _, err := far.Write(want[:10]); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer // no lock: one write at a time, and done after the last
	ended := make(chan error, 2)
	near.Forward(&got, func(err error) { ended <- err })
	if _, err := far.Write(want[10:]); err != nil {
		t.Fatal(err)
	}
	if err := far.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, ended, "the end"); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d of %d bytes came, or others", got.Len(), len(want))
	}
	// The other direction goes on.
	back := make(chan error, 1)
	var answer bytes.Buffer
	far.Forward(&answer, func(err error) { back <- err })
	if _, err := near.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, back, "the end of the answer"); err != nil || answer.String() != "answer" {
		t.Errorf("%q, %v", answer.String(), err)
	}
	if len(ended) > 0 {
		t.Error("the end was told twice")
	}
}

// Whoever ends a connection at rest, and however, is told.
func TestForwardEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*testing.T, *pair)
		want func(error) bool
	}{
		"this end closes": {
			func(_ *testing.T, p *pair) { _ = p.server.Conn().Close() },
			func(err error) bool { return errors.Is(err, io.ErrClosedPipe) || errors.Is(err, stream.ErrClosed) },
		},
		"the stream is closed": {
			func(_ *testing.T, p *pair) { p.server.Close() },
			func(err error) bool { return errors.Is(err, stream.ErrClosed) },
		},
		"the device is lost": {
			func(_ *testing.T, p *pair) { p.cancel() },
			func(err error) bool { return err != nil },
		},
		"the device could not go on": {
			func(t *testing.T, p *pair) {
				if err := p.device.Finish(&edgeapi.Result{Reason: "InternalError", Message: "it broke"}); err != nil {
					t.Error(err)
				}
			},
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "it broke") },
		},
		"the session is over": {
			func(t *testing.T, p *pair) {
				if err := p.device.Finish(nil); err != nil {
					t.Error(err)
				}
			},
			func(err error) bool { return err == nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, false)
			ended := make(chan error, 1)
			p.server.Conn().Forward(io.Discard, func(err error) { ended <- err })
			test.end(t, p)
			if err := receive(t, ended, "the end"); !test.want(err) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// A writer that fails is not written to again.
func TestForwardFails(t *testing.T) {
	p := newPair(t, false)
	ended := make(chan error, 2)
	p.server.Conn().Forward(&failing{after: 4}, func(err error) { ended <- err })
	far := p.device.Conn()
	for range 3 {
		if _, err := far.Write([]byte("abc")); err != nil {
			t.Fatal(err)
		}
	}
	if err := receive(t, ended, "the end"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("ended with %v", err)
	}
	p.server.Close()
	<-p.server.Done()
	if len(ended) > 0 {
		t.Error("the end was told twice")
	}
}

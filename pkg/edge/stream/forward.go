package stream

import (
	"errors"
	"io"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/ondemand"
)

// forwarding writes what comes on a channel to a writer, in a goroutine that is there only while something
// comes. Receiving goes on meanwhile, as far as the queue reaches: only so the end of the call is noticed.
type forwarding struct {
	r      *reader
	w      io.Writer
	done   func(error)
	over   bool // for the worker only
	worker *ondemand.Worker
}

// Forward has what comes on a channel that the peer writes written to w, and then calls done once, with what
// io.Copy(w, s.Reader(ch)) would return. It returns at once, and no goroutine waits meanwhile. It takes the place
// of all reading of the channel.
func (s *Stream) Forward(ch edgeapi.Channel, w io.Writer, done func(error)) {
	s.reader(ch).forward(w, done)
}

// forward begins it. The function done is called once, with what WriteTo would return.
func (r *reader) forward(w io.Writer, done func(error)) {
	f := &forwarding{r: r, w: w, done: done}
	f.worker = ondemand.NewWorker(f.work)
	r.forwarding.Store(f)
	f.worker.Wake() // for what has come before
}

// wake has what was done to the reader noticed.
func (r *reader) wake() {
	if f := r.forwarding.Load(); f != nil {
		f.worker.Wake()
	}
}

func (f *forwarding) work() {
	if f.over {
		return
	}
	for {
		some, err := f.r.poll()
		if err == nil && !some {
			return
		}
		if err == nil {
			_, err = f.r.writeRest(f.w)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			f.over = true
			f.done(err)
			return
		}
	}
}

package spdy

import (
	"io"

	"arhat.dev/aranya/pkg/ondemand"
)

// forwarding writes what comes on a stream to a writer, in a goroutine that is there only while something
// comes. The connection is read meanwhile, as far as the queue reaches.
type forwarding struct {
	s      *Stream
	w      io.Writer
	done   func(error)
	over   bool // for the worker only
	worker *ondemand.Worker
}

// Forward has what comes written to w until the end, and then calls done with the error of writing, if there
// was one. It returns at once, and takes the place of all reading.
func (s *Stream) Forward(w io.Writer, done func(error)) {
	f := &forwarding{s: s, w: w, done: done}
	f.worker = ondemand.NewWorker(f.work)
	s.forwarding.Store(f)
	f.worker.Wake() // for what has come before
}

// wake has what happened to the stream noticed.
func (s *Stream) wake() {
	if f := s.forwarding.Load(); f != nil {
		f.worker.Wake()
	}
}

func (f *forwarding) work() {
	for !f.over {
		select {
		case <-f.s.gone:
			f.end(nil)
			return
		default:
		}
		select {
		case data, ok := <-f.s.data:
			if !ok {
				f.end(nil)
			} else if _, err := f.w.Write(data); err != nil {
				f.end(err)
			}
		default:
			return
		}
	}
}

func (f *forwarding) end(err error) {
	f.over = true
	f.done(err)
}

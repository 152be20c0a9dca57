package ondemand

import (
	"errors"
	"io"
	"sync/atomic"
)

// Forwarder writes what comes from a source to a writer. The zero value does nothing, until Begin.
type Forwarder struct {
	forwarding atomic.Pointer[forwarding]
}

type forwarding struct {
	next   func() ([]byte, error)
	w      io.Writer
	done   func(error)
	over   bool // for the worker only
	worker *Worker
}

// Begin has everything that the function next returns written to w, until it returns an error or writing fails.
// Then done is called once, with that error, but with nil for io.EOF. When there is nothing at the moment, next
// returns nil and no error: it is called again after Wake. Begin does not wait for any of this, and may
// be called once.
func (f *Forwarder) Begin(next func() ([]byte, error), w io.Writer, done func(error)) {
	begun := &forwarding{next: next, w: w, done: done}
	begun.worker = NewWorker(begun.work)
	f.forwarding.Store(begun)
	begun.worker.Wake() // for what has come before
}

// Wake is to be called when next may have something new to return. It does not wait.
func (f *Forwarder) Wake() {
	if begun := f.forwarding.Load(); begun != nil {
		begun.worker.Wake()
	}
}

func (f *forwarding) work() {
	for !f.over {
		data, err := f.next()
		if err == nil && data == nil {
			return
		}
		if err == nil {
			err = writeAll(f.w, data)
		}
		if err != nil {
			f.over = true
			if errors.Is(err, io.EOF) {
				err = nil
			}
			f.done(err)
		}
	}
}

func writeAll(w io.Writer, data []byte) error {
	n, err := w.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	return err
}

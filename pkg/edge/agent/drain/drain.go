// Package drain reads the output of a process to its end, and knows when to stop if a process that was left
// behind still holds it. It is linked into shims and must stay small.
package drain

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long output is usually waited for after the process has ended.
const Patience = 2 * time.Second

// maxRest is what is still taken, in bytes, from a process that was left behind and writes without a pause once the
// patience is over. No pipe holds more, unless root has made it so: what the ended process wrote is among it.
const maxRest = 1 << 20

// Reader reads what a process writes into a pipe or a terminal. All that the process has written before its
// end is read, however slow whoever reads from the Reader is. Read is for one goroutine at a time.
type Reader struct {
	file  *os.File
	ended atomic.Bool

	// patience is how long Read waits, altogether, once the process has ended; rest is what it may return after
	// that.
	patience time.Duration
	rest     int
}

// NewReader returns a Reader of a file that has deadlines.
func NewReader(file *os.File, patience time.Duration) *Reader {
	return &Reader{file: file, patience: patience, rest: maxRest}
}

// End says that the process has ended. It may be called at any time, and again.
func (r *Reader) End() {
	r.ended.Store(true)
	_ = r.file.SetReadDeadline(time.Now()) // wakes a Read, which then sets its own
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if !r.ended.Load() {
		if n, err := r.file.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	for {
		start := time.Now()
		n, err := r.readLate(p)
		r.patience -= time.Since(start)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// readLate reads after the process has ended: what is there, for which it does not matter how late it is,
// or what comes while there is patience left.
func (r *Reader) readLate(p []byte) (int, error) {
	late := r.patience <= 0
	if late {
		p = p[:min(len(p), r.rest)]
	}
	n, err := readNow(r.file, p)
	switch {
	case late && errors.Is(err, unix.EAGAIN):
		return 0, io.EOF
	case errors.Is(err, unix.EAGAIN):
		_ = r.file.SetReadDeadline(time.Now().Add(r.patience))
		return r.file.Read(p)
	case late:
		r.rest -= n
	}
	return n, err
}

// readNow reads without waiting. A deadline in the past keeps os.File from reading even what is there.
func readNow(file *os.File, p []byte) (n int, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	if controlErr := conn.Control(func(fd uintptr) {
		for {
			if n, err = unix.Read(int(fd), p); !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	}); controlErr != nil {
		return 0, controlErr
	}
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

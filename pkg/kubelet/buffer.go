package kubelet

import (
	"bytes"
	"errors"
	"sync"
)

// errFull ends a command whose output nobody wants any more.
var errFull = errors.New("too much output")

// boundedBuffer collects the outputs of a command, which are written concurrently.
type boundedBuffer struct {
	limit int

	mu       sync.Mutex
	buffer   bytes.Buffer
	overflow bool
}

// Write implements io.Writer.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buffer.Len()+len(p) > b.limit {
		b.overflow = true
		return 0, errFull
	}
	return b.buffer.Write(p)
}

func (b *boundedBuffer) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.overflow
}

func (b *boundedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buffer.Bytes())
}

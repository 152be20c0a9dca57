package leaseclient

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is the connection below: it remembers what is written at once.
type recorder struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
	err    error
	closed bool
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

func (r *recorder) written() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes
}

func (r *recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}

func TestGatheredWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &recorder{}
		conn := gather(below)
		write := func(p []byte) {
			t.Helper()
			if n, err := conn.Write(p); n != len(p) || err != nil {
				t.Fatalf("wrote %d of %d: %v", n, len(p), err)
			}
		}
		for _, p := range []string{"a", "b", "c"} {
			write([]byte(p))
		}
		if len(below.written()) != 0 {
			t.Errorf("sent %q without waiting for more", below.written())
		}
		time.Sleep(sendAfter)
		synctest.Wait()
		write([]byte("d"))
		time.Sleep(sendAfter)
		synctest.Wait()
		if len(below.written()) != 2 || string(below.written()[0]) != "abc" || string(below.written()[1]) != "d" {
			t.Errorf("sent %q", below.written())
		}

		write(make([]byte, maxGathered-1))
		write([]byte("e"))
		if len(below.written()) != 3 || len(below.written()[2]) != maxGathered {
			t.Errorf("%d writes after as much as is gathered", len(below.written()))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(below.written()) != 3 {
			t.Errorf("wrote %q later", below.written()[3:])
		}
	})
}

func TestGatheredWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := &recorder{err: io.ErrClosedPipe}
		conn := gather(below)
		if _, err := conn.Write([]byte("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(sendAfter)
		synctest.Wait()
		if !below.closed {
			t.Error("nobody who waits for an answer learns that nothing was sent")
		}
		if _, err := conn.Write([]byte("b")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the next write: %v", err)
		}
	})
}

func TestGatheredReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		conn := gather(here)
		defer conn.Close()
		defer there.Close()
		go func() { _, _ = there.Write([]byte("answer")) }()
		start := time.Now()
		p := make([]byte, 64)
		if n, err := conn.Read(p); err != nil || string(p[:n]) != "answer" {
			t.Errorf("read %q, %v", p[:n], err)
		}
		if took := time.Since(start); took != receiveAfter {
			t.Errorf("read after %s", took)
		}
	})
}

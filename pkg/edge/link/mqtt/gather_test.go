package mqtt

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowConn takes what is written when it is told to.
type slowConn struct {
	net.Conn
	goOn   chan struct{} // an element, or closed, lets one write, or all, pass
	closed chan struct{}
	close  sync.Once

	mu     sync.Mutex
	writes [][]byte
	limit  time.Time
}

func newSlowConn() *slowConn {
	return &slowConn{goOn: make(chan struct{}, 1), closed: make(chan struct{})}
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	timer := time.NewTimer(time.Until(c.limit))
	c.mu.Unlock()
	defer timer.Stop()
	select {
	case <-c.goOn:
	case <-timer.C:
		return 0, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, net.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes = append(c.writes, bytes.Clone(p))
	return len(p), nil
}

func (c *slowConn) Read([]byte) (int, error) {
	<-c.closed
	return 0, net.ErrClosed
}

func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = t
	return nil
}

func (c *slowConn) Close() error {
	c.close.Do(func() { close(c.closed) })
	return nil
}

func (c *slowConn) written() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, w := range c.writes {
		all = append(all, string(w))
	}
	return all
}

func mustWrite(t *testing.T, c net.Conn, packets ...string) {
	t.Helper()
	for _, p := range packets {
		if n, err := c.Write([]byte(p)); n != len(p) || err != nil {
			t.Errorf("wrote %d of %d bytes: %v", n, len(p), err)
		}
	}
}

func TestGatherer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowConn()
		g := newGatherer(&patient{Conn: slow})
		mustWrite(t, g, "a")
		synctest.Wait()
		mustWrite(t, g, "b", "c", "d")
		slow.goOn <- struct{}{}
		synctest.Wait()
		mustWrite(t, g, "e")
		close(slow.goOn)
		if err := g.Close(); err != nil { // what was written goes first
			t.Error(err)
		}
		if got := slow.written(); len(got) != 3 || got[0] != "a" || got[1] != "bcd" || got[2] != "e" {
			t.Errorf("written: %q", got)
		}
		if _, err := g.Write([]byte("f")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("written after Close: %v", err)
		}
	})
}

// TestGathererIsBounded: whoever has more than can be sent waits, with messages sooner than the library, until the error
// that ends it.
func TestGathererIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowConn()
		g := newGatherer(&patient{Conn: slow})
		mustWrite(t, g, "a")
		synctest.Wait() // it is under way
		begin := time.Now()
		waits := func(f func()) <-chan struct{} {
			done := make(chan struct{})
			go func() {
				defer close(done)
				f()
			}()
			synctest.Wait()
			select {
			case <-done:
				t.Fatalf("taken beyond the bound")
			default:
			}
			return done
		}
		mustWrite(t, g, string(make([]byte, maxGathered-1)))
		g.room()
		mustWrite(t, g, "b")
		message := waits(g.room)
		mustWrite(t, g, string(make([]byte, maxHeld-maxGathered)))
		packet := waits(func() {
			if _, err := g.Write([]byte("c")); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("it ended by %v", err)
			}
		})
		<-message
		<-packet
		if took := time.Since(begin); took != writeTime {
			t.Errorf("it took %s", took)
		}
		if _, err := g.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("whoever reads was told %v", err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestGathererClosesSoon: a connection that takes nothing any more is closed all the same.
func TestGathererClosesSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowConn()
		g := newGatherer(&patient{Conn: slow})
		mustWrite(t, g, "a")
		begin := time.Now()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != disconnectTime*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

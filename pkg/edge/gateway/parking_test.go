package gateway

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/note"
)

// restful is the network below a session that can be parked, where nobody is.
type restful struct{ wire }

func (restful) LocalAddr() net.Addr                                 { return &net.TCPAddr{} }
func (restful) RemoteAddr() net.Addr                                { return &net.TCPAddr{} }
func (restful) Park(func([]byte), func(error)) (link.Parked, error) { return nobody{}, nil }

type nobody struct{ link.Parked }

func (nobody) Note([]byte) {}
func (nobody) Close()      {}

// newRestful is newChecked with a session that can be parked, and was pinged just now.
func newRestful(t *testing.T) *checked {
	t.Helper()
	c := newChecked(t, link.MethodMQTT)
	c.gateway.config.ParkAfter = time.Second
	conn := &deviceConn{Conn: link.NewConn(restful{}, link.MethodMQTT), gateway: c.gateway, parked: make(chan struct{})}
	conn.isIn.Store(true)
	c.conn.Store(conn)
	c.parking.keys = &note.Keys{}
	c.out.wake = c.wake
	c.pings.sent = time.Now()
	return c
}

// A session is parked while the pinger looks at it: neither waits for the other for ever.
func TestParkedWhileChecked(t *testing.T) {
	const times = 3000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range times {
			c := newRestful(t)
			c.gateway.config.ParkAfter = time.Hour // but it was asked, see below
			c.out.send = func(*edgeapi.ServerMessage) error { return nil }
			c.out.spawn = c.gateway.work.Go
			c.parking.asked = 1
			var checks sync.WaitGroup
			var over atomic.Bool
			begun := make(chan struct{})
			checks.Go(func() {
				close(begun)
				for !over.Load() {
					c.check(time.Now(), time.Hour)
				}
			})
			<-begun
			for range i % 100 { // not always at the same moment
				runtime.Gosched()
			}
			if err := c.parked(&edgeapi.Parked{}); !errors.Is(err, errParked) {
				t.Errorf("not parked: %v", err)
			}
			over.Store(true)
			checks.Wait()
			c.gateway.work.Wait()
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("they wait for each other")
	}
}

// A link that is of use again and again is not parked in between, until it has rested.
func TestPatience(t *testing.T) {
	var p parking
	for i, step := range []struct{ rest, want time.Duration }{
		{time.Second, 2 * time.Minute},
		{4*time.Minute - 1, 4 * time.Minute},
		{0, 4 * time.Minute},
		{8 * time.Minute, time.Minute},
		{2 * time.Minute, time.Minute},
		{2*time.Minute - 1, 2 * time.Minute},
	} {
		p.rested(step.rest, time.Minute)
		if got := p.silence(time.Minute); got != step.want {
			t.Errorf("step %d: parked after %s, want %s", i, got, step.want)
		}
	}
}

// A device that takes its time to answer is not asked to be parked again: it would answer twice, and be resumed under
// an id that is not the last one.
func TestAskedToParkOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRestful(t)
		look := func(what string, asked int) {
			t.Helper()
			time.Sleep(2 * time.Second)
			_, _ = c.conn.Load().Read(make([]byte, 1)) // the answer to a ping before
			time.Sleep(2 * time.Second)
			c.outUnlocked(func() { c.check(time.Now(), time.Hour) })
			if c.sent != asked {
				t.Errorf("%s: asked %d times, want %d", what, c.sent, asked)
			}
		}
		answer := func() error { return c.parked(&edgeapi.Parked{Busy: true}) }
		look("silent", 1)
		look("no answer yet", 1)
		if err := answer(); err != nil {
			t.Error(err)
		}
		look("after the answer", 2)
		if err := answer(); err != nil {
			t.Error(err)
		}
		if err := answer(); err == nil {
			t.Error("an answer was taken that nobody had asked for")
		}
	})
}

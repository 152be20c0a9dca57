package link

import (
	"errors"
	"net"
	"testing"
	"time"
)

type parkable struct {
	net.Conn
	closed bool
}

func (p *parkable) Read(b []byte) (int, error)  { return len(b), nil }
func (p *parkable) Write(b []byte) (int, error) { return len(b), nil }
func (p *parkable) Close() error                { p.closed = true; return nil }
func (*parkable) LocalAddr() net.Addr           { return &net.UnixAddr{Name: "here"} }
func (*parkable) RemoteAddr() net.Addr          { return &net.UnixAddr{Name: "there"} }

func (*parkable) Park(func([]byte), func(error)) (Parked, error) { return nil, nil }

func TestPark(t *testing.T) {
	c := NewConn(&parkable{}, MethodMQTT)
	if _, err := c.Park(nil, nil); err != nil || !c.CanPark() {
		t.Errorf("a connection that can be parked: %t, %v", c.CanPark(), err)
	}
	c = NewConn(broken{}, MethodGRPC)
	if _, err := c.Park(nil, nil); !errors.Is(err, errors.ErrUnsupported) || c.CanPark() {
		t.Errorf("a connection that cannot be parked: %t, %v", c.CanPark(), err)
	}
}

// What is kept of a connection counts on, and the next connection from there.
func TestRested(t *testing.T) {
	inner := &parkable{}
	c := NewConn(inner, MethodMQTT)
	_, _ = c.Read(make([]byte, 3))
	_, _ = c.Write(make([]byte, 5))
	r := c.Rested()
	if r.BytesIn() != 3 || r.BytesOut() != 5 || !r.LastRead().Equal(c.LastRead()) || !r.LastWrite().Equal(c.LastWrite()) ||
		r.Method() != MethodMQTT || r.RemoteAddr().String() != "there" || r.LocalAddr().String() != "here" {
		t.Errorf("kept %d and %d bytes of %s %s", r.BytesIn(), r.BytesOut(), r.Method(), r.RemoteAddr())
	}
	read, write := r.LastRead(), r.LastWrite()
	time.Sleep(time.Millisecond) // for the clock to move on
	if r.Noted(0, 7); r.BytesOut() != 12 || !r.LastWrite().After(write) || !r.LastRead().Equal(read) {
		t.Errorf("after a note: %d bytes sent at %s, read at %s", r.BytesOut(), r.LastWrite(), r.LastRead())
	}
	if r.Noted(2, 0); r.BytesIn() != 5 || !r.LastRead().After(read) {
		t.Errorf("after the answer: %d bytes read at %s", r.BytesIn(), r.LastRead())
	}
	next := NewConn(&parkable{}, MethodMQTT)
	_, _ = next.Read(make([]byte, 10))
	if next.Inherit(r); next.BytesIn() != 15 || next.BytesOut() != 12 {
		t.Errorf("the next one counts %d and %d", next.BytesIn(), next.BytesOut())
	}
	if _, err := r.Read(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read from what is over: %v", err)
	}
	if _, err := r.Write(nil); !errors.Is(err, net.ErrClosed) || inner.closed {
		t.Errorf("written to what is over: %v", err)
	}
}

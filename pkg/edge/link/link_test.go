package link

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTCP(t *testing.T) {
	before := time.Now()
	l, err := ListenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if NewListener(l, MethodGRPC) != l {
		t.Error("a listener was wrapped twice")
	}
	client, err := TCP{}.Dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, ok := c.(*Conn)
	if !ok {
		t.Fatalf("Accept returned %T", c)
	}
	if client.Method() != "grpc" || server.Method() != "grpc" {
		t.Errorf("methods %s and %s", client.Method(), server.Method())
	}
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if client.BytesOut() != 5 || client.BytesIn() != 0 || server.BytesIn() != 5 || server.BytesOut() != 0 {
		t.Errorf("counted %d/%d and %d/%d", client.BytesIn(), client.BytesOut(), server.BytesIn(), server.BytesOut())
	}
	if server.LastRead().Before(before) || client.LastWrite().Before(before) || time.Since(server.LastRead()) < 0 {
		t.Errorf("times %s and %s", server.LastRead(), client.LastWrite())
	}
}

// A clock that is set while a connection lasts changes nothing of how long ago it was used.
func TestTimesAreMonotonic(t *testing.T) {
	for name, use := range map[string]func(*Conn) *Conn{
		"new":      func(c *Conn) *Conn { return c },
		"read":     func(c *Conn) *Conn { _, _ = c.Read(make([]byte, 1)); return c },
		"written":  func(c *Conn) *Conn { _, _ = c.Write(make([]byte, 1)); return c },
		"noted":    func(c *Conn) *Conn { c.Noted(1, 1); return c },
		"rested":   func(c *Conn) *Conn { return c.Rested() },
		"inherits": func(c *Conn) *Conn { c.Inherit(NewConn(&parkable{}, MethodMQTT)); return c },
	} {
		t.Run(name, func(t *testing.T) {
			before := time.Now()
			c := use(NewConn(&parkable{}, MethodMQTT))
			for what, at := range map[string]time.Time{"read": c.LastRead(), "write": c.LastWrite()} {
				if !strings.Contains(at.String(), " m=") {
					t.Errorf("the time of the last %s has no monotonic reading", what)
				}
				if at.Before(before) || at.After(time.Now()) {
					t.Errorf("the time of the last %s is %s", what, at)
				}
			}
		})
	}
}

// Failure is what broke the network, not how it ended in good order.
func TestFailure(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		kept bool
	}{
		"end": {io.EOF, false}, "closed": {net.ErrClosed, false}, "deadline": {os.ErrDeadlineExceeded, false},
		"network": {errors.New("no route"), true},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewConn(broken{err: tt.err}, MethodGRPC)
			if c.Failure() != nil || c.Ended() {
				t.Error("a new connection has failed or ended")
			}
			_, _ = c.Write([]byte("x"))
			if c.Ended() != errors.Is(tt.err, io.EOF) {
				t.Errorf("ended: %t", c.Ended())
			}
			c.Conn = broken{err: errors.New("later")}
			if tt.kept {
				_, _ = c.Read(make([]byte, 1))
				if !errors.Is(c.Failure(), tt.err) {
					t.Errorf("the failure is %v", c.Failure())
				}
			} else if c.Failure() != nil {
				t.Errorf("the failure is %v", c.Failure())
			}
		})
	}
}

type broken struct {
	net.Conn
	err error
}

func (b broken) Read([]byte) (int, error)  { return 0, b.err }
func (b broken) Write([]byte) (int, error) { return 0, b.err }

func TestTCPFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	if _, err := (TCP{}).Dial(t.Context(), address); err == nil {
		t.Error("Dial succeeded with nobody there")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (TCP{}).Dial(ctx, address); err == nil {
		t.Error("Dial succeeded after its context had ended")
	}
	if _, err := ListenTCP(t.Context(), "256.0.0.1:1"); err == nil {
		t.Error("listening on an address that cannot be succeeded")
	}
}

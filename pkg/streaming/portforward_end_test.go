package streaming

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/portforward"

	"arhat.dev/aranya/test/framework/eventually"
)

// A connection of which the client has reset the stream is closed, also if the other side would keep it open. The
// session goes on.
func TestPortForwardClosesWhatIsReset(t *testing.T) {
	for name, newDialer := range forwardDialers {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			d := &dialer{address: l.Addr().String()} // which never answers, nor closes
			_, u := newForwardServer(t, Config{MaxConnections: 1}, d.dial)
			client := openSession(t, newDialer(t, u))
			for range 2 {
				data, failure := client.open(t, 2)
				eventually.Holds(t, "a connection", func() bool { return d.open.Load() == 1 })
				if err := data.Reset(); err != nil {
					t.Fatal(err)
				}
				eventually.Holds(t, "the connection to be closed", func() bool { return d.open.Load() == 0 })
				if message, err := io.ReadAll(failure); err != nil || len(message) > 0 {
					t.Errorf("reported %q, %v", message, err)
				}
			}
		})
	}
}

// A connection whose client has hung up ends, also if the other side would go on sending: kubectl only tells that it
// sends no more. The session goes on.
func TestPortForwardEndsWhatNobodyReads(t *testing.T) {
	for name, newDialer := range forwardDialers {
		t.Run(name, func(t *testing.T) {
			d := &dialer{address: chatter(t)}
			_, u := newForwardServer(t, Config{halfCloseTimeout: time.Millisecond}, d.dial)
			address, stop := forward(t, newDialer(t, u), 8080, io.Discard)
			for range 2 {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(conn, make([]byte, 1<<10)); err != nil {
					t.Fatal(err)
				}
				if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				eventually.Holds(t, "the connection to be closed", func() bool { return d.open.Load() == 0 })
				conn.Close()
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPortForwardBoundsConnections(t *testing.T) {
	d := &dialer{address: echo(t)}
	_, u := newForwardServer(t, Config{MaxConnections: 1}, d.dial)
	client := openSession(t, forwardDialers["SPDY"](t, u))
	first, _ := client.open(t, 2)
	eventually.Holds(t, "a connection", func() bool { return d.open.Load() == 1 })
	_, failure := client.open(t, 2)
	if message, err := io.ReadAll(failure); err != nil || !strings.Contains(string(message), "1 connections open already") {
		t.Errorf("reported %q, %v", message, err)
	}
	first.Close()
	eventually.Holds(t, "the connection to be closed", func() bool { return d.open.Load() == 0 })
	data, _ := client.open(t, 2)
	data.Close()
	if got, err := io.ReadAll(data); err != nil || len(got) != sha256.Size {
		t.Errorf("after another was closed: %v, %v", got, err)
	}
}

// establish opens a forwarded connection and sends a byte through it. Until it has arrived the client may still wait for
// its streams to be accepted, and the SPDY library never gives up waiting on a connection that was cut then.
func establish(t *testing.T, d *dialer, address string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "a connection that carries data", func() bool { return d.received.Load() == 1 })
}

func TestPortForwardEndsWithItsClient(t *testing.T) {
	for name, newDialer := range forwardDialers {
		t.Run(name, func(t *testing.T) {
			d := &dialer{address: echo(t)}
			s, u := newForwardServer(t, Config{}, d.dial)
			address, stop := forward(t, newDialer(t, u), 8080, io.Discard)
			establish(t, d, address)
			if err := stop(); err != nil {
				t.Error(err)
			}
			eventually.Holds(t, "the connection to be closed", func() bool { return d.open.Load() == 0 })
			eventually.Holds(t, "the session to end", func() bool { return s.open() == 0 })
		})
	}
}

func TestShutdownEndsPortForward(t *testing.T) {
	for name, newDialer := range forwardDialers {
		t.Run(name, func(t *testing.T) {
			d := &dialer{address: echo(t)}
			s, u := newForwardServer(t, Config{}, d.dial)
			address, stop := forward(t, newDialer(t, u), 8080, io.Discard)
			establish(t, d, address)
			shutdown(t, s)
			if err := stop(); !errors.Is(err, portforward.ErrLostConnectionToPod) && err != nil {
				t.Error(err)
			}
			eventually.Holds(t, "the connection to be closed", func() bool { return d.open.Load() == 0 })
		})
	}
}

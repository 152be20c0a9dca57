package streaming

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	streamhttp "k8s.io/streaming/pkg/httpstream"

	"arhat.dev/aranya/test/framework/eventually"
)

// dialer connects to a local listener, whatever the port, and counts what is open.
type dialer struct {
	address string
	open    atomic.Int32
	dialled atomic.Int32
	// received counts the bytes that clients sent.
	received atomic.Int64
}

func (d *dialer) dial(ctx context.Context, port uint16) (Conn, error) {
	if port == 1 {
		return nil, errors.New("nobody listens on port 1")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	d.open.Add(1)
	d.dialled.Add(1)
	return &countedConn{TCPConn: conn.(*net.TCPConn), d: d}, nil
}

type countedConn struct {
	*net.TCPConn
	d      *dialer
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.d.open.Add(-1)
	}
	return c.TCPConn.Close()
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.d.received.Add(int64(n))
	return n, err
}

// ReadFrom has what is copied to the connection pass through Write.
func (c *countedConn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// echo answers each connection with the SHA-256 of what it got before the EOF.
func echo(t *testing.T) string {
	return listen(t, func(conn net.Conn) {
		sum := sha256.New()
		if _, err := io.Copy(sum, conn); err == nil {
			_, _ = conn.Write(sum.Sum(nil))
		}
	})
}

// chatter sends to each connection until it is closed.
func chatter(t *testing.T) string {
	return listen(t, func(conn net.Conn) {
		for data := make([]byte, 1<<10); ; {
			if _, err := conn.Write(data); err != nil {
				return
			}
		}
	})
}

// listen has connections served, which are closed afterwards.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	group.Go(func() error {
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil //nolint:nilerr // the listener was closed: the test is over
			}
			group.Go(func() error {
				defer conn.Close()
				serve(conn)
				return nil
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		_ = group.Wait()
	})
	return l.Addr().String()
}

func newForwardServer(t *testing.T, config Config, dial DialFunc) (*Server, *url.URL) {
	t.Helper()
	s := NewServer(config)
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ports []int32
		for _, text := range r.URL.Query()["ports"] {
			var port int32
			if _, err := fmt.Sscan(text, &port); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			ports = append(ports, port)
		}
		if err := s.CheckPortForward(r, ports); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.ServePortForward(w, r, PortForwardOptions{Name: "EdgeDevice edge/device-1", Ports: ports}, dial)
	}))
	t.Cleanup(ts.Close)
	t.Cleanup(func() { shutdown(t, s) })
	u, err := url.Parse(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	return s, u
}

// forwardDialers are the clients that kubectl uses.
var forwardDialers = map[string]func(*testing.T, *url.URL) streamhttp.Dialer{
	"SPDY": func(t *testing.T, u *url.URL) streamhttp.Dialer {
		transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: u.Host})
		if err != nil {
			t.Fatal(err)
		}
		return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	},
	"tunnel": func(t *testing.T, u *url.URL) streamhttp.Dialer {
		d, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, &rest.Config{Host: u.Host})
		if err != nil {
			t.Fatal(err)
		}
		return d
	},
}

// forward runs kubectl's port forwarder and returns the local address.
func forward(t *testing.T, d streamhttp.Dialer, remotePort int, errOut io.Writer) (address string, stop func() error) {
	t.Helper()
	stopped, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewOnAddressesForStreaming(d, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", remotePort)}, stopped, ready, io.Discard, errOut)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-result:
		t.Fatalf("could not forward: %v", err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local), func() error {
		close(stopped)
		return <-result
	}
}

func TestPortForward(t *testing.T) {
	for name, newDialer := range forwardDialers {
		t.Run(name, func(t *testing.T) {
			d := &dialer{address: echo(t)}
			_, u := newForwardServer(t, Config{}, d.dial)
			address, stop := forward(t, newDialer(t, u), 8080, io.Discard)
			if n := d.dialled.Load(); n != 0 {
				t.Errorf("%d connections before anybody asked for one", n)
			}
			var group errgroup.Group
			for i := range 8 {
				group.Go(func() error { return exchange(address, byte(i), 2<<20) })
			}
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
			eventually.Holds(t, "connections to be closed", func() bool { return d.open.Load() == 0 })
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// exchange sends size bytes, half-closes, and compares the sum that comes back.
func exchange(address string, seed byte, size int64) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	sum := sha256.New()
	if _, err := io.Copy(conn, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{seed}), size), sum)); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, sum.Sum(nil)) {
		return fmt.Errorf("connection %d: other bytes arrived", seed)
	}
	return nil
}

// clientSession is a port-forward session whose error streams the test can read.
type clientSession struct {
	conn streamhttp.Connection
	next int
}

func openSession(t *testing.T, d streamhttp.Dialer) *clientSession {
	t.Helper()
	conn, _, err := d.Dial("portforward.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &clientSession{conn: conn}
}

// open asks for a connection to a port.
func (c *clientSession) open(t *testing.T, port int) (data, failure streamhttp.Stream) {
	t.Helper()
	data, failure, err := c.tryOpen(port)
	if err != nil {
		t.Fatal(err)
	}
	return data, failure
}

func (c *clientSession) tryOpen(port int) (data, failure streamhttp.Stream, err error) {
	c.next++
	headers := http.Header{}
	headers.Set("port", strconv.Itoa(port))
	headers.Set("requestID", strconv.Itoa(c.next))
	for _, kind := range []string{"error", "data"} {
		headers.Set("streamType", kind)
		stream, err := c.conn.CreateStream(headers)
		if err != nil {
			return nil, nil, err
		}
		data, failure = stream, data
	}
	failure.Close()
	return data, failure, nil
}

func TestPortForwardReportsDialErrors(t *testing.T) {
	for name, newDialer := range forwardDialers {
		t.Run(name, func(t *testing.T) {
			d := &dialer{address: echo(t)}
			_, u := newForwardServer(t, Config{}, d.dial)
			client := openSession(t, newDialer(t, u))
			_, failure := client.open(t, 1)
			message, err := io.ReadAll(failure)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(message), "nobody listens on port 1") || !strings.Contains(string(message), "EdgeDevice edge/device-1") {
				t.Errorf("reported %q", message)
			}
			// The session goes on.
			data, _ := client.open(t, 2)
			data.Close()
			if got, err := io.ReadAll(data); err != nil || len(got) != sha256.Size {
				t.Errorf("after a failed connection: %v, %v", got, err)
			}
		})
	}
}

func TestPortForwardOldWebSocket(t *testing.T) {
	d := &dialer{address: echo(t)}
	_, u := newForwardServer(t, Config{}, d.dial)
	u.Scheme, u.RawQuery = "ws", "ports=8080"
	ws, response, err := (&websocket.Dialer{Subprotocols: []string{v4Binary}}).DialContext(t.Context(), u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	defer ws.Close()
	// Each channel begins with its port, little-endian.
	for channel := range byte(2) {
		_, message, err := ws.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(message, []byte{channel, 0x90, 0x1f}) {
			t.Errorf("channel %d begins with %v", channel, message)
		}
	}
	if err := ws.WriteMessage(websocket.BinaryMessage, append([]byte{0}, "ping"...)); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "a connection", func() bool { return d.open.Load() == 1 })
}

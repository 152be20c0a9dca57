package spdy

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/streaming/pkg/httpstream"
	mobyspdy "k8s.io/streaming/pkg/httpstream/spdy"

	"arhat.dev/aranya/test/framework/eventually"
)

// patience is for a busy machine.
const patience = 20 * time.Second

// tcp returns the two ends of a connection.
func tcp(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return server, client
}

// serve serves a connection, and returns Kubernetes' own client of it. At the end of the test Serve must
// have returned.
func serve(t *testing.T, config Config, handle Handler) (client httpstream.Connection, ended <-chan error) {
	t.Helper()
	server, conn := tcp(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewConn(server, server, config, handle).Serve(ctx) }()
	client, err := mobyspdy.NewClientConnection(conn)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := wait(t, over); err != nil {
			t.Error(err)
		}
	})
	result := make(chan error, 1)
	go func() {
		err := <-done
		over <- err
		result <- err
	}()
	return client, result
}

func wait[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Error("timed out")
	}
	return v
}

var usual = Config{IdleTimeout: time.Hour, MaxStreams: 100}

// open opens a stream.
func open(t *testing.T, c httpstream.Connection, name string) httpstream.Stream {
	t.Helper()
	s, err := c.CreateStream(http.Header{"Name": {name}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// echo sends back what comes, and closes after it.
func echo(s *Stream) (func(func()), error) {
	return func(done func()) {
		defer done()
		_, _ = io.Copy(s, s)
		_ = s.Close()
	}, nil
}

// forwardBack does the same by Forward.
func forwardBack(s *Stream) (func(func()), error) {
	return func(done func()) {
		s.Forward(s, func(error) {
			defer done()
			_ = s.Close()
		})
	}, nil
}

func TestStreams(t *testing.T) {
	for name, handle := range map[string]Handler{"Read": echo, "Forward": forwardBack} {
		t.Run(name, func(t *testing.T) { testStreams(t, handle) })
	}
}

func testStreams(t *testing.T, handle Handler) {
	client, _ := serve(t, usual, handle)
	var group errgroup.Group
	for i := range 20 {
		stream := open(t, client, fmt.Sprint("stream ", i))
		sent := bytes.Repeat([]byte{byte(i)}, 1<<20+i)
		group.Go(func() error {
			if _, err := stream.Write(sent); err != nil { // one frame: much larger than what is queued
				return err
			}
			return stream.Close()
		})
		group.Go(func() error {
			got, err := io.ReadAll(stream)
			if err == nil && !bytes.Equal(got, sent) {
				err = fmt.Errorf("stream %d: %d of %d bytes came, or others", i, len(got), len(sent))
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func TestHandlerSeesHeaders(t *testing.T) {
	seen := make(chan http.Header, 2)
	client, _ := serve(t, usual, func(s *Stream) (func(func()), error) {
		seen <- s.Headers()
		if s.Headers().Get("name") == "bad" {
			return nil, errors.New("no")
		}
		return nil, nil
	})
	open(t, client, "good")
	if got := wait(t, seen).Get("name"); got != "good" {
		t.Errorf("name %q", got)
	}
	if _, err := client.CreateStream(http.Header{"Name": {"bad"}}); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("a stream that was refused: %v", err)
	}
	open(t, client, "better")
}

func TestMaxStreams(t *testing.T) {
	client, _ := serve(t, Config{IdleTimeout: time.Hour, MaxStreams: 1}, echo)
	first := open(t, client, "first")
	if _, err := client.CreateStream(http.Header{}); err == nil {
		t.Error("a stream too many was opened")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(first); err != nil {
		t.Fatal(err)
	}
	// Its last frame is sent before it is forgotten here.
	eventually.Succeeds(t, func() error {
		_, err := client.CreateStream(http.Header{})
		return err
	})
}

func TestResets(t *testing.T) {
	streams := make(chan *Stream, 1)
	client, _ := serve(t, usual, func(s *Stream) (func(func()), error) {
		streams <- s
		return nil, nil
	})
	t.Run("by the client", func(t *testing.T) {
		far := open(t, client, "a")
		near := wait(t, streams)
		if err := far.Reset(); err != nil {
			t.Fatal(err)
		}
		if n, err := near.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
			t.Errorf("read %d, %v", n, err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("by the server", func(t *testing.T) {
		far := open(t, client, "b")
		near := wait(t, streams)
		if err := near.Reset(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(far); err != nil || len(got) > 0 {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	})
	t.Run("with data that nobody reads", func(t *testing.T) {
		far := open(t, client, "c")
		near := wait(t, streams)
		if _, err := far.Write(make([]byte, 2*queued*maxData)); err != nil {
			t.Fatal(err)
		}
		// The connection stands still until somebody reads, or gives up.
		if err := near.Reset(); err != nil {
			t.Fatal(err)
		}
		open(t, client, "d")
	})
}

func TestEnds(t *testing.T) {
	for name, end := range map[string]func(client httpstream.Connection, stop func()){
		"the client closes": func(client httpstream.Connection, _ func()) { client.Close() },
		"the context ends":  func(_ httpstream.Connection, stop func()) { stop() },
	} {
		for _, handle := range []Handler{echo, forwardBack} {
			t.Run(name, func(t *testing.T) {
				server, conn := tcp(t)
				client, err := mobyspdy.NewClientConnection(conn)
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- NewConn(server, server, usual, handle).Serve(ctx) }()
				open(t, client, "open")
				end(client, cancel)
				if err := wait(t, done); err != nil {
					t.Error(err)
				}
				wait(t, client.CloseChan())
			})
		}
	}
}

func TestIdleTimeout(t *testing.T) {
	_, ended := serve(t, Config{IdleTimeout: time.Millisecond, MaxStreams: 1}, echo)
	if err := wait(t, ended); err != nil {
		t.Error(err)
	}
}

func TestPing(t *testing.T) {
	server, client := tcp(t)
	done := make(chan error, 1)
	go func() { done <- NewConn(server, server, usual, echo).Serve(t.Context()) }()
	ping := controlFrame(typePing, []byte{0, 0, 0, 1})
	if _, err := client.Write(ping); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(ping))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, ping) {
		t.Errorf("answered with %v, %v", got, err)
	}
	client.Close()
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
}

func TestViolations(t *testing.T) {
	for name, frame := range map[string][]byte{
		"another version": {control, 2, 0, typePing, 0, 0, 0, 4, 0, 0, 0, 1},
		"a large frame":   {control, version, 0, typePing, 0, 0xff, 0xff, 0xff},
		"cut off":         controlFrame(typeSynStream, []byte{0, 0, 0, 1}),
		"bad headers":     controlFrame(typeSynStream, make([]byte, 30)),
	} {
		server, client := tcp(t)
		done := make(chan error, 1)
		go func() { done <- NewConn(server, server, usual, echo).Serve(t.Context()) }()
		if _, err := client.Write(frame); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, done); err == nil || !strings.Contains(err.Error(), "protocol violation") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// memory is a connection whose client has sent everything, and reads nothing.
type memory struct {
	net.Conn
	*bytes.Reader
}

func (m memory) Read(p []byte) (int, error)  { return m.Reader.Read(p) }
func (m memory) Write(p []byte) (int, error) { return len(p), nil }
func (m memory) Close() error                { return nil }

func FuzzConn(f *testing.F) {
	c := newCompressor(f, zlib.BestCompression)
	syn := func(id byte, flags byte) []byte {
		frame := controlFrame(typeSynStream, append([]byte{0, 0, 0, id, 0, 0, 0, 0, 0, 0}, c.block(f, text("name", "x"))...))
		frame[4] = flags
		return frame
	}
	f.Add(slices.Concat(syn(1, 0), []byte{0, 0, 0, 1, fin, 0, 0, 2, 'h', 'i'}, syn(3, fin),
		controlFrame(typeRstStream, []byte{0, 0, 0, 1, 0, 0, 0, cancelled}), controlFrame(typeGoAway, make([]byte, 8))))
	f.Fuzz(func(t *testing.T, input []byte) {
		most := 0
		conn := memory{Reader: bytes.NewReader(input)}
		config := Config{IdleTimeout: time.Hour, MaxStreams: 2}
		c := NewConn(conn, conn, config, nil)
		c.handle = func(s *Stream) (func(func()), error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			most = max(most, len(c.streams))
			if s.Identifier()%4 == 1 {
				return echo(s)
			}
			return forwardBack(s)
		}
		_ = c.Serve(t.Context())
		if most > config.MaxStreams {
			t.Errorf("%d streams at a time", most)
		}
	})
}

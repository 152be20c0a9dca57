package stream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/tap"
	"google.golang.org/grpc/test/bufconn"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

const deadline = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type server struct {
	edgeapi.UnimplementedEdgeServer
	arrived chan *stream.Stream
	// counted counts the data that were received.
	counted atomic.Int64
}

type countingCall struct {
	grpc.BidiStreamingServer[edgeapi.StreamFrame, edgeapi.StreamFrame]
	n *atomic.Int64
}

func (c countingCall) Recv() (*edgeapi.StreamFrame, error) {
	f, err := c.BidiStreamingServer.Recv()
	c.n.Add(int64(len(f.GetData().GetData())))
	return f, err
}

func (s *server) Stream(call grpc.BidiStreamingServer[edgeapi.StreamFrame, edgeapi.StreamFrame]) error {
	st := stream.NewServer(countingCall{call, &s.counted}, call.Context().Value(abortKey{}).(context.CancelFunc))
	s.arrived <- st
	st.Serve()
	return nil
}

type abortKey struct{}

// tapAbort is what the gateway does: a handler cannot end the context of its call by itself.
func tapAbort(ctx context.Context, _ *tap.Info) (context.Context, error) {
	ctx, cancel := context.WithCancel(ctx)
	return context.WithValue(ctx, abortKey{}, cancel), nil
}

// pair is both ends of a stream over gRPC.
type pair struct {
	server, device *stream.Stream
	raw            grpc.BidiStreamingClient[edgeapi.StreamFrame, edgeapi.StreamFrame]
	impl           *server
	cancel         context.CancelFunc
}

// deviceWindow is how much of a stream may be under way to a device.
const deviceWindow = 512 << 10

func newPair(t testing.TB, raw bool) *pair {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	impl := &server{arrived: make(chan *stream.Stream, 1)}
	g := grpc.NewServer(grpc.WaitForHandlers(true), grpc.InTapHandle(tapAbort))
	edgeapi.RegisterEdgeServer(g, impl)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = g.Serve(l)
	}()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(deviceWindow),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	call, err := edgeapi.NewEdgeClient(conn).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{impl: impl, raw: call, cancel: cancel}
	t.Cleanup(func() {
		cancel()
		p.server.Close()
		_ = conn.Close()
		g.Stop()
		<-served
	})
	if !raw {
		p.device = stream.NewDevice(call)
		t.Cleanup(p.device.Close)
	}
	p.server = receive(t, impl.arrived, "the stream")
	return p
}

func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(deadline):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}

const (
	stdin  = edgeapi.Channel_STDIN
	stdout = edgeapi.Channel_STDOUT
	stderr = edgeapi.Channel_STDERR
)

// Data of all channels arrive complete and in order, half-close is seen on each, and the result last.
func TestExec(t *testing.T) {
	p := newPair(t, false)
	in := bytes.Repeat([]byte("stdin "), 50000)
	var group sync.WaitGroup
	group.Go(func() {
		if err := p.device.Ready(); err != nil {
			t.Error(err)
		}
		got, err := io.ReadAll(p.device.Reader(stdin))
		if err != nil || !bytes.Equal(got, in) {
			t.Errorf("the device read %d bytes, error %v", len(got), err)
		}
		// After the half-close of STDIN the other direction goes on.
		_, _ = p.device.Writer(stdout).Write(bytes.Repeat([]byte("o"), 100000))
		_, _ = p.device.Writer(stderr).Write([]byte("err"))
		_ = p.device.Writer(stderr).Close()
		if _, err := p.device.Writer(stderr).Write([]byte("late")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("Write after Close: %v", err)
		}
		if err := p.device.Finish(&edgeapi.Result{ExitCode: 7}); err != nil {
			t.Error(err)
		}
		if err := p.device.Finish(nil); err == nil {
			t.Error("finished twice")
		}
	})
	if result, err := p.server.Started(t.Context()); result != nil || err != nil {
		t.Errorf("Started: %v %v", result, err)
	}
	w := p.server.Writer(stdin)
	if n, err := w.Write(in); n != len(in) || err != nil {
		t.Errorf("Write: %d %v", n, err)
	}
	_ = w.Close()
	_ = w.Close()
	group.Go(func() {
		if got, err := io.ReadAll(p.server.Reader(stderr)); string(got) != "err" || err != nil {
			t.Errorf("STDERR %q, error %v", got, err)
		}
	})
	if got, err := io.ReadAll(p.server.Reader(stdout)); len(got) != 100000 || err != nil {
		t.Errorf("STDOUT has %d bytes, error %v", len(got), err)
	}
	result, err := p.server.Wait(t.Context())
	if err != nil || result.GetExitCode() != 7 || p.server.Result().GetExitCode() != 7 {
		t.Errorf("Wait: %v %v", result, err)
	}
	group.Wait()
	if err := p.server.Resize(1, 1); err == nil {
		t.Error("Resize of a stream that is over succeeded")
	}
}

func TestResize(t *testing.T) {
	p := newPair(t, false)
	for i := range uint16(100) { // nobody receives yet: the latest counts
		if err := p.server.Resize(i, i+1); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = p.server.Writer(stdin).Write([]byte("x")) // in order behind the sizes
	_, _ = io.ReadFull(p.device.Reader(stdin), make([]byte, 1))
	if size := receive(t, p.device.Resizes(), "a size"); size.Width != 99 || size.Height != 100 {
		t.Errorf("size %v", size)
	}
	p.server.Close()
	for range p.device.Resizes() {
		t.Error("a size out of nowhere")
	}
}

func TestResultBeforeReady(t *testing.T) {
	p := newPair(t, false)
	go func() { _ = p.device.Finish(&edgeapi.Result{Reason: "Forbidden", Message: "no"}) }()
	result, err := p.server.Started(t.Context())
	if err != nil || result.GetReason() != "Forbidden" {
		t.Errorf("Started: %v %v", result, err)
	}
}

// Output that comes before StreamReady does not keep the server from seeing that the session has begun.
func TestOutputBeforeReady(t *testing.T) {
	p := newPair(t, true)
	const frames = 10 // more than wait for a reader
	go func() {
		for range frames {
			_ = p.raw.Send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Data{Data: &edgeapi.Data{Channel: stdout, Data: []byte("x")}}})
		}
		_ = p.raw.Send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Ready{Ready: &edgeapi.StreamReady{}}})
		_ = p.raw.Send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Result{Result: &edgeapi.Result{}}})
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if result, err := p.server.Started(ctx); result != nil || err != nil {
		t.Fatalf("Started returned %v, %v", result, err)
	}
	if data, err := io.ReadAll(p.server.Reader(stdout)); err != nil || len(data) != frames {
		t.Errorf("read %q, %v", data, err)
	}
}

// A reader that stalls stops the sender after a bounded amount, and what was sent is there when it
// reads on.
func TestStalledReader(t *testing.T) {
	p := newPair(t, false)
	const total = 64 << 20
	written := make(chan error, 1)
	go func() {
		_, err := io.Copy(p.device.Writer(stdout), io.LimitReader(zeros{}, total))
		if err == nil {
			err = p.device.Finish(nil)
		}
		written <- err
	}()
	one := make([]byte, 1)
	if _, err := io.ReadFull(p.server.Reader(stdout), one); err != nil {
		t.Fatal(err)
	}
	stalled, same := int64(-1), 0
	for end := time.Now().Add(deadline); same < 10 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		now := p.impl.counted.Load()
		if now == stalled {
			same++
		} else {
			stalled, same = now, 0
		}
	}
	if stalled > 256<<10 {
		t.Errorf("%d bytes were received for a reader that stalls", stalled)
	}
	select {
	case err := <-written:
		t.Fatalf("the writer was not held up: %v", err)
	default:
	}
	n, err := io.Copy(io.Discard, p.server.Reader(stdout))
	if n != total-1 || err != nil {
		t.Errorf("read %d bytes more, error %v", n, err)
	}
	if err := receive(t, written, "the writer"); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A reader that was closed does not hold up the rest.
func TestDiscard(t *testing.T) {
	p := newPair(t, false)
	_ = p.server.Reader(stderr).Close()
	go func() {
		_, _ = io.Copy(p.device.Writer(stderr), io.LimitReader(zeros{}, 1<<20))
		_, _ = p.device.Writer(stdout).Write([]byte("out"))
		_ = p.device.Finish(nil)
	}()
	if got, err := io.ReadAll(p.server.Reader(stdout)); string(got) != "out" || err != nil {
		t.Errorf("STDOUT %q, error %v", got, err)
	}
	if _, err := p.server.Reader(stderr).Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Read after Close: %v", err)
	}
}

// Finish is not held up by a server that keeps writing, and its result is not lost.
func TestFinishWhileServerWrites(t *testing.T) {
	p := newPair(t, false)
	wrote := make(chan error, 1)
	go func() {
		_, err := io.Copy(p.server.Writer(stdin), zeros{})
		wrote <- err
	}()
	if _, err := io.ReadFull(p.device.Reader(stdin), make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := p.device.Finish(&edgeapi.Result{ExitCode: 3}); err != nil {
		t.Error(err)
	}
	if result, err := p.server.Wait(t.Context()); result.GetExitCode() != 3 {
		t.Errorf("Wait: %v %v", result, err)
	}
	if err := receive(t, wrote, "the writer to stop"); err == nil {
		t.Error("Write to a session that is over succeeded")
	}
}

// Each end notices, wherever it waits, that the other cut the stream.
func TestCut(t *testing.T) {
	for name, cut := range map[string]func(*pair){
		"server closes":     func(p *pair) { p.server.Close() },
		"device closes":     func(p *pair) { p.cancel() },
		"device is stopped": func(p *pair) { p.device.Close(); p.cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, false)
			errs := make(chan error, 5)
			go func() { _, err := io.Copy(io.Discard, p.device.Reader(stdin)); errs <- err }()
			go func() { _, err := io.Copy(p.device.Writer(stdout), zeros{}); errs <- err }()
			go func() { _, err := io.ReadAll(p.server.Reader(stderr)); errs <- err }()
			go func() { _, err := p.server.Wait(context.Background()); errs <- err }()
			go func() { <-p.device.Context().Done(); errs <- p.device.Context().Err() }()
			if _, err := io.ReadFull(p.server.Reader(stdout), make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			cut(p)
			for range 5 {
				if err := receive(t, errs, "everybody to notice"); err == nil {
					t.Error("a cut looks like a proper end")
				}
			}
			if _, err := p.server.Reader(stderr).Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("Read afterwards: %v", err)
			}
		})
	}
}

// Only of what this end has closed the device still has to be told.
func TestLeft(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*pair) error
		want bool
	}{
		"the server closes":  {func(p *pair) error { p.server.Close(); return nil }, true},
		"the device is done": {func(p *pair) error { return p.device.Finish(nil) }, false},
		"closed after that":  {func(p *pair) error { err := p.device.Finish(nil); p.server.Close(); return err }, false},
		"the device is gone": {func(p *pair) error { p.cancel(); return nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, false)
			if err := tt.end(p); err != nil {
				t.Fatal(err)
			}
			receive(t, p.server.Context().Done(), "the end of the stream")
			if got := p.server.Left(); got != tt.want {
				t.Errorf("left: %v", got)
			}
		})
	}
}

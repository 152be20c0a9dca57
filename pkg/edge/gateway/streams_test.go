package gateway_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/test/framework/eventually"
)

func execRequest(command ...string) *edgeapi.OpenStream {
	return &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Exec{Exec: &edgeapi.Exec{Command: command, Stdin: true, Stdout: true}}}
}

// connectedWith is a device whose streams are served by a function.
func connectedWith(t testing.TB, w *world, serve func(context.Context, *edgeapi.OpenStream, *stream.Stream), change ...func(*device, *uplink.Config)) (*device, gateway.Session) {
	t.Helper()
	change = append(change, func(d *device, _ *uplink.Config) { d.serve = serve })
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1")), change...)
	receive(t, d.connected, "the device to connect")
	return d, w.handler.next(t, "started").s
}

// cat copies STDIN to STDOUT and ends with a code.
func cat(code int32) func(context.Context, *edgeapi.OpenStream, *stream.Stream) {
	return func(_ context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
		if s.Ready() != nil {
			return
		}
		out := s.Writer(edgeapi.Channel_STDOUT)
		_, _ = io.Copy(out, s.Reader(edgeapi.Channel_STDIN))
		_ = out.Close()
		_ = s.Finish(&edgeapi.Result{ExitCode: code})
	}
}

func TestStream(t *testing.T) {
	w := newWorld(t)
	_, s := connectedWith(t, w, cat(42))
	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if s.Info().Streams != 1 {
		t.Errorf("%d streams", s.Info().Streams)
	}
	in := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	go func() {
		stdin := st.Writer(edgeapi.Channel_STDIN)
		_, _ = stdin.Write(in)
		_ = stdin.Close()
	}()
	out, err := io.ReadAll(st.Reader(edgeapi.Channel_STDOUT))
	if err != nil || !bytes.Equal(in, out) {
		t.Errorf("%d bytes came back of %d, error %v", len(out), len(in), err)
	}
	result, err := st.Wait(t.Context())
	if err != nil || result.ExitCode != 42 {
		t.Errorf("result %v, error %v", result, err)
	}
	eventually.Holds(t, "the stream is not counted any more", func() bool { return s.Info().Streams == 0 })
}

// What the device refuses is an API status before anything is upgraded.
func TestStreamRefused(t *testing.T) {
	w := newWorld(t)
	var reason string
	_, s := connectedWith(t, w, func(_ context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
		_ = s.Finish(&edgeapi.Result{Reason: reason, Message: "because"})
	})
	for _, c := range []struct {
		reason string
		is     func(error) bool
	}{
		{"Forbidden", apierrors.IsForbidden},
		{"NotFound", apierrors.IsNotFound},
		{"BadRequest", apierrors.IsBadRequest},
		{"InternalError", apierrors.IsInternalError},
		{"TooManyRequests", apierrors.IsTooManyRequests},
		{"ServiceUnavailable", apierrors.IsServiceUnavailable},
		{"NeverHeardOf", apierrors.IsInternalError},
	} {
		reason = c.reason
		_, err := s.OpenStream(t.Context(), execRequest("x"))
		if !c.is(err) || !strings.Contains(err.Error(), "because") || !strings.Contains(err.Error(), "edge/device-1") {
			t.Errorf("%s: %v", c.reason, err)
		}
	}
	// A session may be over before it says that it has begun.
	reason = ""
	st, err := s.OpenStream(t.Context(), execRequest("x"))
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
	eventually.Holds(t, "no stream is left", func() bool { return s.Info().Streams == 0 })
}

// An agent that forgets to finish does not leave its user waiting.
func TestStreamWithoutResult(t *testing.T) {
	w := newWorld(t)
	_, s := connectedWith(t, w, func(context.Context, *edgeapi.OpenStream, *stream.Stream) {})
	_, err := s.OpenStream(t.Context(), execRequest("x"))
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "without a result") {
		t.Error(err)
	}
}

func TestStreamLimits(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.MaxStreams = 3 })
	_, s := connectedWith(t, w, cat(0), func(_ *device, c *uplink.Config) { c.MaxStreams = 2 })
	var open []*stream.Stream
	for range 2 {
		st, err := s.OpenStream(t.Context(), execRequest("cat"))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		open = append(open, st)
	}
	_, err := s.OpenStream(t.Context(), execRequest("cat"))
	if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "on the device") {
		t.Errorf("over the device's limit: %v", err)
	}
	open[0].Close()
	eventually.Holds(t, "a slot is free again", func() bool {
		st, err := s.OpenStream(t.Context(), execRequest("cat"))
		if err == nil {
			st.Close()
		}
		return err == nil
	})
}

func TestStreamLimitOfServer(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.MaxStreams = 1 })
	_, s := connectedWith(t, w, cat(0))
	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err = s.OpenStream(t.Context(), execRequest("cat")); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "which is the limit") {
		t.Errorf("over the server's limit: %v", err)
	}
}

// The end of the link ends its streams, at both ends.
func TestStreamEndsWithLink(t *testing.T) {
	w := newWorld(t)
	ended := make(chan struct{})
	_, s := connectedWith(t, w, func(ctx context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
		_ = s.Ready()
		<-ctx.Done()
		close(ended)
	})
	st, err := s.OpenStream(t.Context(), execRequest("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	w.Disconnect(s.Device(), gateway.ErrClosed)
	receive(t, ended, "the device's end")
	receive(t, st.Done(), "the server's end")
	if _, err := st.Wait(t.Context()); err == nil {
		t.Error("a stream that broke has no error")
	}
	if _, err := s.OpenStream(t.Context(), execRequest("x")); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("OpenStream on a session that is over: %v", err)
	}
}

// Whoever uses a stream that is cut off with its link is told why, in words.
func TestStreamCutOff(t *testing.T) {
	for name, tt := range map[string]struct {
		cut  func(*world, *device, *countingDialer, gateway.Device)
		want string
	}{
		"by the server": {
			func(w *world, _ *device, _ *countingDialer, d gateway.Device) {
				w.Disconnect(d, status.Error(codes.Unavailable, "it is time"))
			}, "it is time",
		},
		"the network": {
			func(_ *world, _ *device, network *countingDialer, _ gateway.Device) { network.cut() }, "the link broke: the connection was closed",
		},
		"by the agent, which stops": {
			func(_ *world, d *device, _ *countingDialer, _ gateway.Device) { d.stop() }, "the device ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			network := &countingDialer{}
			d, s := connectedWith(t, w, func(ctx context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
				_ = s.Ready()
				<-ctx.Done()
			}, func(_ *device, c *uplink.Config) { c.Dialer = network })
			st, err := s.OpenStream(t.Context(), execRequest("x"))
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			tt.cut(w, d, network, s.Device())
			if _, err := st.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "rpc error") {
				t.Errorf("the stream ended with: %v", err)
			}
		})
	}
}

// A session that cannot be ended, because its process cannot be killed, does not keep the device away.
func TestStreamOutlivesLink(t *testing.T) {
	w := newWorld(t)
	over := make(chan struct{})
	defer close(over)
	d, s := connectedWith(t, w, func(_ context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
		_ = s.Ready()
		<-over
	}, func(_ *device, c *uplink.Config) { c.StreamPatience = time.Millisecond })
	st, err := s.OpenStream(t.Context(), execRequest("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := st.Started(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Disconnect(s.Device(), gateway.ErrClosed)
	if err := receive(t, d.disconnected, "the device to give up the link"); err == nil {
		t.Error("the device left without being told why")
	}
	receive(t, d.connected, "the device to connect again")
}

// The user's end: the device is told at once, and nothing is left.
func TestStreamClosedByUser(t *testing.T) {
	w := newWorld(t)
	ended := make(chan error, 1)
	_, s := connectedWith(t, w, func(ctx context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
		_ = s.Ready()
		_, err := io.Copy(io.Discard, s.Reader(edgeapi.Channel_STDIN))
		<-ctx.Done()
		ended <- err
	})
	st, err := s.OpenStream(t.Context(), execRequest("x"))
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
	if err := receive(t, ended, "the device's end"); err == nil {
		t.Error("a stream that was cut looks as if STDIN was closed")
	}
	eventually.Holds(t, "no stream is left", func() bool { return s.Info().Streams == 0 })
}

func TestOpenStreamContext(t *testing.T) {
	w := newWorld(t)
	entered := make(chan struct{})
	_, s := connectedWith(t, w, func(ctx context.Context, _ *edgeapi.OpenStream, _ *stream.Stream) {
		close(entered)
		<-ctx.Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancel()
	}()
	if _, err := s.OpenStream(ctx, execRequest("x")); err == nil {
		t.Error("OpenStream succeeded")
	}
	eventually.Holds(t, "no stream is left", func() bool { return s.Info().Streams == 0 })
}

// A reader that stalls holds up its own stream only.
func TestStalledStream(t *testing.T) {
	w := newWorld(t)
	_, s := connectedWith(t, w, func(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream) {
		if req.GetExec().Command[0] == "cat" {
			cat(0)(ctx, req, s)
			return
		}
		_ = s.Ready()
		_, _ = io.Copy(s.Writer(edgeapi.Channel_STDOUT), zeros{})
	})
	stalled, err := s.OpenStream(t.Context(), execRequest("flood"))
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	before := int64(-1)
	eventually.Holds(t, "the flood stops", func() bool {
		now := s.Info().BytesIn
		same := now == before && now > 256<<10
		before = now
		time.Sleep(20 * time.Millisecond)
		return same
	})
	if before > 8<<20 {
		t.Errorf("%d bytes were taken for a reader that stalls", before)
	}
	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	conn := st.Conn()
	for range 100 {
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A command that does not read its input hears all the same that the user has left.
func TestLeaveBehindUnreadInput(t *testing.T) {
	for name, size := range map[string]int{
		"all of it at the device":    400 << 10,
		"more than may be under way": 544 << 10, // which is 512 KiB, and less than Write waits with
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ended := make(chan struct{})
			_, s := connectedWith(t, w, func(ctx context.Context, _ *edgeapi.OpenStream, st *stream.Stream) {
				_ = st.Ready()
				<-ctx.Done()
				close(ended)
			})
			st, err := s.OpenStream(t.Context(), &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Exec{Exec: &edgeapi.Exec{Stdin: true}}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Writer(edgeapi.Channel_STDIN).Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			st.Close()
			receive(t, ended, "the command to be ended")
			eventually.Holds(t, "the stream is free", func() bool { return s.Info().Streams == 0 })
		})
	}
}

package target

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target/fakedevice"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/pkg/streaming"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Of clients whose session was cut.
		goleak.IgnoreAnyFunction("github.com/moby/spdystream.(*Connection).shutdown"),
		goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"))
}

func newSession(t *testing.T, handler fakedevice.Handler) *fakedevice.Session {
	return fakedevice.New(t, gateway.Device{Namespace: "edge", Name: "device-1", UID: "1234"}, gateway.Info{}, handler)
}

func run(t *testing.T, s *fakedevice.Session, opts streaming.Options, streams streaming.IO, words ...string) error {
	t.Helper()
	command, err := Exec(t.Context(), s, nil, words, opts)
	if err != nil {
		t.Fatal(err)
	}
	return command.Run(t.Context(), streams)
}

func TestExec(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	var out, errOut bytes.Buffer
	in := strings.Repeat("0123456789abcdef", 64<<10)
	if err := run(t, s, streaming.Options{Stdin: true, Stdout: true}, streaming.IO{Stdin: strings.NewReader(in), Stdout: &out}, "cat"); err != nil {
		t.Fatal(err)
	}
	if out.String() != in {
		t.Errorf("got %d bytes back of %d", out.Len(), len(in))
	}

	err := run(t, s, streaming.Options{Stdout: true, Stderr: true}, streaming.IO{Stdout: io.Discard, Stderr: &errOut}, "exit", "42")
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 42 || errOut.String() != "bye" {
		t.Errorf("got %v and %q on stderr", err, errOut.String())
	}

	// An output that was not asked for does not hold up the command.
	if err := run(t, s, streaming.Options{Stdout: true}, streaming.IO{Stdout: io.Discard}, "exit", "0"); err != nil {
		t.Error(err)
	}
	s.Idle(t)
}

func TestExecPassesTheRequest(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	command, err := Exec(t.Context(), s, &Container{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid-1"}}, Name: "web"}, []string{"show", "a b", ""}, streaming.Options{Stdin: true, Stdout: true, TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := command.Run(t.Context(), streaming.IO{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(out.String(), " ", "")
	for _, want := range []string{`"podUid":"uid-1"`, `"container":"web"`, `["show","ab",""]`, `"stdin":true`, `"stdout":true`, `"tty":true`} {
		if !strings.Contains(got, want) {
			t.Errorf("the device got %s without %s", got, want)
		}
	}
	if strings.Contains(got, "stderr") {
		t.Errorf("the device got %s", got)
	}
}

func TestRefusalIsAnAPIStatus(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	_, err := Exec(t.Context(), s, nil, []string{"forbidden"}, streaming.Options{Stdout: true})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "policy.exec") {
		t.Errorf("got %v", err)
	}
	s.Idle(t)
	s.Close(errors.New("gone"))
	if _, err := Attach(t.Context(), s, nil, streaming.Options{Stdout: true}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("offline: got %v", err)
	}
}

func TestDeviceThatDoesNotAnswer(t *testing.T) {
	exec := func(ctx context.Context, s gateway.Session) error {
		_, err := Exec(ctx, s, nil, []string{"cat"}, streaming.Options{Stdout: true})
		return err
	}
	stats := func(ctx context.Context, s gateway.Session) error {
		_, err := Stats(ctx, s, false)
		return err
	}
	for name, test := range map[string]struct {
		begins bool
		call   func(context.Context, gateway.Session) error
		want   string
	}{
		"a command":             {false, exec, "EdgeDevice edge/device-1 did not answer within 30s"},
		"statistics":            {false, stats, "within 30s"},
		"statistics that begin": {true, stats, "EdgeDevice edge/device-1 sent no complete statistics within 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSession(t, func(ctx context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
					if test.begins {
						_ = s.Ready() // an error means that the server is gone
					}
					<-ctx.Done()
				})
				err := test.call(t.Context(), s)
				if !apierrors.IsTimeout(err) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %s", err, test.want)
				}
				if _, asked := apierrors.SuggestsClientDelay(err); asked { // client-go does ten times
					t.Errorf("%v asks to try again", err)
				}
			})
		})
	}
}

func TestClientThatDoesNotWait(t *testing.T) {
	s := newSession(t, func(ctx context.Context, _ *edgeapi.OpenStream, _ *stream.Stream) { <-ctx.Done() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Exec(ctx, s, nil, []string{"cat"}, streaming.Options{Stdout: true}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v", err)
	}
	s.Idle(t)
}

func TestTerminalSize(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	sizes := make(chan streaming.TerminalSize, 1)
	sizes <- streaming.TerminalSize{Width: 132, Height: 50}
	close(sizes)
	var out bytes.Buffer
	if err := run(t, s, streaming.Options{Stdout: true, TTY: true}, streaming.IO{Stdout: &out, TTY: true, Resize: sizes}, "size"); err != nil || out.String() != "132x50" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestEndOfContextEndsCommand(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	command, err := Exec(t.Context(), s, nil, []string{"wait"}, streaming.Options{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the client is gone")
	cancel(reason)
	if err := command.Run(ctx, streaming.IO{Stdout: io.Discard}); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	s.Idle(t)
}

func TestCloseWithoutRun(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	command, err := Exec(t.Context(), s, nil, []string{"wait"}, streaming.Options{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	command.Close()
	s.Idle(t)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestClientThatTakesNoOutputEndsCommand(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	stdin, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = w.Write([]byte("x")) }() // cat gives it back, and goes on
	err := run(t, s, streaming.Options{Stdin: true, Stdout: true}, streaming.IO{Stdin: stdin, Stdout: failingWriter{}}, "cat")
	if err == nil {
		t.Error("no error")
	}
	s.Idle(t)
}

func TestBrokenStream(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	err := run(t, s, streaming.Options{Stdout: true}, streaming.IO{Stdout: io.Discard}, "break")
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "edge/device-1") {
		t.Errorf("got %v", err)
	}
}

func TestLog(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	now := time.Unix(1_000_000, 0)
	request := (&LogOptions{Follow: true, Timestamps: true, SinceSeconds: ptr.To[int64](60), TailLines: ptr.To[int64](5), LimitBytes: ptr.To[int64](99)}).Request(now)
	request.Source = &edgeapi.Log_Unit{Unit: "ssh.service"}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Log(ctx, s, nil, request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buffer := make([]byte, 4096)
	n, err := r.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(string(buffer[:n]), " ", "")
	for _, want := range []string{`"unit":"ssh.service"`, `"follow":true`, `"timestamps":true`, `"sinceNs":"999940000000000"`, `"sinceSeconds":"60"`, `"tailLines":"5"`, `"limitBytes":"99"`} {
		if !strings.Contains(got, want) {
			t.Errorf("the device got %s without %s", got, want)
		}
	}
	cancel() // the follower goes away
	if _, err := r.Read(buffer); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
	s.Idle(t)
}

func TestLogDefaultsAndErrors(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	request := (&LogOptions{}).Request(time.Now())
	if request.GetTailLines() != -1 || request.GetLimitBytes() != -1 || request.GetSinceNs() != 0 {
		t.Errorf("defaults are %v", request)
	}
	request.Source = &edgeapi.Log_Path{Path: "/forbidden"}
	if _, err := Log(t.Context(), s, nil, request); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
	request.Source = &edgeapi.Log_Path{Path: "/broken"}
	r, err := Log(t.Context(), s, nil, request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a log that broke off ended with %v", err)
	}
}

func TestLogOptionsValidate(t *testing.T) {
	negative, zero, one := ptr.To[int64](-1), ptr.To[int64](0), ptr.To[int64](1)
	tests := map[string]struct {
		opts LogOptions
		want string
	}{
		"none":         {LogOptions{}, ""},
		"all":          {LogOptions{TailLines: zero, LimitBytes: one, SinceSeconds: one}, ""},
		"tailLines":    {LogOptions{TailLines: negative}, "tailLines"},
		"limitBytes":   {LogOptions{LimitBytes: zero}, "limitBytes"},
		"sinceSeconds": {LogOptions{SinceSeconds: zero}, "sinceSeconds"},
		"two times":    {LogOptions{SinceSeconds: one, SinceTime: &metav1.Time{}}, "sinceSeconds"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			errs := test.opts.Validate()
			if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) != 1 || errs[0].Field != test.want) {
				t.Errorf("got %v", errs)
			}
		})
	}
}

func TestDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		data, _ := io.ReadAll(conn)
		_, _ = conn.Write(append([]byte("got "), data...))
	}()
	defer func() { l.Close(); <-done }()

	s := newSession(t, fakedevice.Host(nil))
	conn, err := Dialer(s, Address{})(t.Context(), uint16(l.Addr().(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	c := NetConn(conn, s)
	if c.RemoteAddr().String() != "edge/device-1" {
		t.Errorf("remote address %v", c.RemoteAddr())
	}
	if _, err := io.WriteString(c, "ping"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "got ping" {
		t.Errorf("got %q, %v", got, err)
	}
	c.Close()
	s.Idle(t)

	if _, err := Dialer(s, Address{})(t.Context(), 1); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a refused connection: %v", err)
	}
}

func TestStats(t *testing.T) {
	s := newSession(t, fakedevice.Host([]byte(`{"node":{"nodeName":"device-1"},"pods":[]}`)))
	summary, err := Stats(t.Context(), s, true)
	if err != nil || summary.Node.NodeName != "device-1" {
		t.Errorf("got %v, %v", summary, err)
	}
	bad := newSession(t, fakedevice.Host([]byte(`{"node":`)))
	if _, err := Stats(t.Context(), bad, true); !apierrors.IsInternalError(err) {
		t.Errorf("got %v", err)
	}
	large := newSession(t, fakedevice.Host(bytes.Repeat([]byte(" "), maxSummary+1)))
	if _, err := Stats(t.Context(), large, true); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
	large.Idle(t)
}

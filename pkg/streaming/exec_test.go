package streaming

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
	utilexec "k8s.io/utils/exec"
)

const testTimeout = 20 * time.Second

// newExecServer serves one command over every protocol; its options come from the query.
func newExecServer(t *testing.T, run CommandFunc) (*Server, *url.URL) {
	t.Helper()
	s := NewServer(Config{})
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		opts := Options{Stdin: q.Has("stdin"), Stdout: q.Has("stdout"), Stderr: q.Has("stderr"), TTY: q.Has("tty")}
		if err := s.CheckCommand(r, opts); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.ServeCommand(w, r, opts, run)
	}))
	t.Cleanup(ts.Close)
	t.Cleanup(func() { shutdown(t, s) })
	u, err := url.Parse(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	return s, u
}

// shutdown ends all sessions and waits for them.
func shutdown(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := s.Shutdown(ctx, errors.New("the test is over")); err != nil {
		t.Errorf("sessions are left: %v", err)
	}
}

// executors are the clients that kubectl uses.
var executors = map[string]func(*rest.Config, *url.URL) (remotecommand.Executor, error){
	"SPDY": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
	},
	"WebSocket": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(c, http.MethodGet, u.String())
	},
}

// forEachExecutor runs a test with every client.
func forEachExecutor(t *testing.T, run CommandFunc, test func(t *testing.T, s *Server, stream func(context.Context, remotecommand.StreamOptions) error)) {
	for name, newExecutor := range executors {
		t.Run(name, func(t *testing.T) {
			s, base := newExecServer(t, run)
			test(t, s, func(ctx context.Context, opts remotecommand.StreamOptions) error {
				u := *base
				q := url.Values{}
				for name, set := range map[string]bool{"stdin": opts.Stdin != nil, "stdout": opts.Stdout != nil, "stderr": opts.Stderr != nil, "tty": opts.Tty} {
					if set {
						q.Set(name, "true")
					}
				}
				u.RawQuery = q.Encode()
				executor, err := newExecutor(&rest.Config{Host: base.Host}, &u)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(ctx, testTimeout)
				defer cancel()
				return executor.StreamWithContext(ctx, opts)
			})
		})
	}
}

func TestCommandSeparatesOutputsAndReportsSuccess(t *testing.T) {
	run := func(_ context.Context, s IO) error {
		if s.TTY || s.Resize != nil || s.Stdin != nil {
			return fmt.Errorf("streams that nobody asked for: %+v", s)
		}
		fmt.Fprint(s.Stdout, "to stdout")
		fmt.Fprint(s.Stderr, "to stderr")
		return nil
	}
	forEachExecutor(t, run, func(t *testing.T, _ *Server, stream func(context.Context, remotecommand.StreamOptions) error) {
		var stdout, stderr bytes.Buffer
		if err := stream(t.Context(), remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
			t.Fatal(err)
		}
		if stdout.String() != "to stdout" || stderr.String() != "to stderr" {
			t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
		}
	})
}

func TestCommandReportsExitCode(t *testing.T) {
	run := func(_ context.Context, s IO) error {
		fmt.Fprint(s.Stdout, "last words")
		return utilexec.CodeExitError{Err: errors.New("exit status 42"), Code: 42}
	}
	forEachExecutor(t, run, func(t *testing.T, _ *Server, stream func(context.Context, remotecommand.StreamOptions) error) {
		var stdout bytes.Buffer
		err := stream(t.Context(), remotecommand.StreamOptions{Stdout: &stdout})
		var exit clientexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 42 {
			t.Errorf("got %v, want exit code 42", err)
		}
		if stdout.String() != "last words" {
			t.Errorf("stdout %q", stdout.String())
		}
	})
}

func TestExitCodeArrivesWhileClientSends(t *testing.T) {
	run := func(_ context.Context, s IO) error {
		// Takes a little of an endless input, as head(1) does.
		if _, err := io.ReadFull(s.Stdin, make([]byte, 100)); err != nil {
			return err
		}
		return utilexec.CodeExitError{Err: errors.New("exit status 7"), Code: 7}
	}
	forEachExecutor(t, run, func(t *testing.T, _ *Server, stream func(context.Context, remotecommand.StreamOptions) error) {
		var stdout bytes.Buffer
		err := stream(t.Context(), remotecommand.StreamOptions{Stdin: rand.NewChaCha8([32]byte{}), Stdout: &stdout})
		var exit clientexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 7 {
			t.Errorf("got %v, want exit code 7", err)
		}
	})
}

func TestCommandReportsFailure(t *testing.T) {
	run := func(context.Context, IO) error { return errors.New("the disk is on fire") }
	forEachExecutor(t, run, func(t *testing.T, _ *Server, stream func(context.Context, remotecommand.StreamOptions) error) {
		err := stream(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "the disk is on fire") {
			t.Errorf("got %v", err)
		}
	})
}

// TestHalfClose also shows that bytes survive both ways: the command is cat.
func TestHalfClose(t *testing.T) {
	run := func(_ context.Context, s IO) error {
		_, err := io.Copy(s.Stdout, s.Stdin) // ends with the client's EOF
		return err
	}
	const size = 8 << 20
	forEachExecutor(t, run, func(t *testing.T, _ *Server, stream func(context.Context, remotecommand.StreamOptions) error) {
		sent, received := sha256.New(), sha256.New()
		in := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
		counted := &countingWriter{w: received}
		if err := stream(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: counted}); err != nil {
			t.Fatal(err)
		}
		if counted.n != size || !sameSum(sent, received) {
			t.Errorf("got %d bytes back of %d, or other ones", counted.n, size)
		}
	})
}

func sameSum(a, b hash.Hash) bool { return bytes.Equal(a.Sum(nil), b.Sum(nil)) }

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// sizeQueue delivers sizes as a terminal would.
type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	size, ok := <-q
	if !ok {
		return nil
	}
	return &size
}

func TestTerminal(t *testing.T) {
	run := func(ctx context.Context, s IO) error {
		if !s.TTY || s.Stderr != nil {
			return fmt.Errorf("not a terminal: %+v", s)
		}
		for {
			select {
			case size, ok := <-s.Resize:
				if !ok {
					return errors.New("no more sizes")
				}
				fmt.Fprintf(s.Stdout, "%dx%d\r\n", size.Width, size.Height)
				if size.Width == 132 {
					return nil
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	forEachExecutor(t, run, func(t *testing.T, _ *Server, stream func(context.Context, remotecommand.StreamOptions) error) {
		sizes := make(sizeQueue, 1)
		sizes <- remotecommand.TerminalSize{Width: 80, Height: 25}
		out := &notifyingBuffer{seen: make(chan struct{})}
		go func() {
			defer close(sizes)
			select {
			case <-out.seen: // the first size has arrived
				sizes <- remotecommand.TerminalSize{Width: 132, Height: 50}
			case <-t.Context().Done():
			}
		}()
		stdin, closeStdin := io.Pipe()
		defer closeStdin.Close()
		if err := stream(t.Context(), remotecommand.StreamOptions{Stdin: stdin, Stdout: out, Tty: true, TerminalSizeQueue: sizes}); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != "80x25\r\n132x50\r\n" {
			t.Errorf("got %q", got)
		}
	})
}

// notifyingBuffer closes seen with the first byte.
type notifyingBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	once sync.Once
	seen chan struct{}
}

func (n *notifyingBuffer) Write(p []byte) (int, error) {
	if len(p) > 0 {
		defer n.once.Do(func() { close(n.seen) })
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(p)
}

func (n *notifyingBuffer) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.String()
}

func TestClientDisconnectEndsCommand(t *testing.T) {
	ended := make(chan error, 1)
	started := make(chan struct{}, 1)
	// The command neither reads nor writes: only the connection tells that the client is gone.
	run := func(ctx context.Context, _ IO) error {
		started <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}
	forEachExecutor(t, run, func(t *testing.T, s *Server, stream func(context.Context, remotecommand.StreamOptions) error) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-started
			cancel()
		}()
		if err := stream(ctx, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil {
			t.Error("an interrupted command must not look like a success")
		}
		select {
		case cause := <-ended:
			if !errors.Is(cause, errClientGone) {
				t.Errorf("the command ended because %v", cause)
			}
		case <-time.After(testTimeout):
			t.Fatal("the command goes on without its client")
		}
	})
}

func TestShutdownTellsTheReason(t *testing.T) {
	started := make(chan struct{}, 1)
	run := func(ctx context.Context, _ IO) error {
		started <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	forEachExecutor(t, run, func(t *testing.T, s *Server, stream func(context.Context, remotecommand.StreamOptions) error) {
		result := make(chan error, 1)
		go func() { result <- stream(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}) }()
		<-started
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		defer cancel()
		if err := s.Shutdown(ctx, errors.New("aranya is restarting")); err != nil {
			t.Fatal(err)
		}
		if err := <-result; err == nil || !strings.Contains(err.Error(), "aranya is restarting") {
			t.Errorf("the client was told %v", err)
		}
		if n := s.open(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
		if err := stream(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "aranya is restarting") {
			t.Errorf("a new session was answered with %v", err)
		}
	})
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	started, release := make(chan struct{}, 1), make(chan struct{})
	run := func(context.Context, IO) error {
		started <- struct{}{}
		<-release
		return nil
	}
	s, base := newExecServer(t, run)
	base.RawQuery = "stdout=true"
	executor, err := executors["WebSocket"](&rest.Config{Host: base.Host}, base)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		result <- executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
	}()
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx, errors.New("now")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v for a session that ignores the end", err)
	}
	if err := <-result; err == nil {
		t.Error("the client of a cut session saw a success")
	}
	close(release)
}

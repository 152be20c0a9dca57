package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"k8s.io/client-go/tools/remotecommand"

	"arhat.dev/aranya/pkg/streaming"
)

// Input of a pipe goes by SPDY, whose sessions no heartbeat ends while the other end takes none. WebSocket is for what
// SPDY does not reach.
func TestProtocolOfSession(t *testing.T) {
	const spdy, webSocket = "SPDY/3.1", "websocket"
	kubectls := []string{webSocket, spdy}
	piped := strings.NewReader("input")
	for name, tt := range map[string]struct {
		stdin       io.Reader
		tty         bool
		code        int
		contentType string
		want        []string
	}{
		"no input":                   {nil, false, http.StatusNotFound, "application/json", kubectls},
		"terminal":                   {piped, true, http.StatusNotFound, "application/json", kubectls},
		"pipe":                       {piped, false, http.StatusNotFound, "application/json", []string{spdy}},
		"a proxy that knows no SPDY": {piped, false, http.StatusForbidden, "text/html", append([]string{spdy}, kubectls...)},
		"a proxy that hangs up":      {piped, false, 0, "", []string{spdy, webSocket}},
		"upgrade lost on the way":    {piped, false, http.StatusBadRequest, "application/json", append([]string{spdy}, kubectls...)},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex // nothing orders what follows after a connection that was hung up
			var tried []string
			c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				tried = append(tried, r.Header.Get("Upgrade"))
				mu.Unlock()
				if tt.code == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Content-Type", tt.contentType)
				w.WriteHeader(tt.code)
			})
			if err := runSession(c, remotecommand.StreamOptions{Stdin: tt.stdin, Stdout: io.Discard, Tty: tt.tty}); err == nil {
				t.Error("it succeeded")
			}
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(tried, tt.want) {
				t.Errorf("tried %q, want %q", tried, tt.want)
			}
		})
	}
}

// What failed before the request was under way would fail again, after the user was asked for a password once more, say.
func TestSessionThatIsNotTriedAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		again bool
	}{
		"credential plugin":    {errors.New("getting credentials: exec: executable login failed with exit code 1"), false},
		"nobody listens":       {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, false},
		"unknown authority":    {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, false},
		"hung up":              {io.ErrUnexpectedEOF, true},
		"connection was reset": {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
	} {
		t.Run(name, func(t *testing.T) {
			tried := 0
			c := testClient(t, nil)
			config, err := c.config()
			if err != nil {
				t.Fatal(err)
			}
			config.Wrap(func(http.RoundTripper) http.RoundTripper {
				return roundTripper(func(*http.Request) (*http.Response, error) {
					tried++
					return nil, tt.err
				})
			})
			target, err := url.Parse(config.Host)
			if err != nil {
				t.Fatal(err)
			}
			if err := execute(t.Context(), target, config, remotecommand.StreamOptions{Stdin: strings.NewReader("input")}); err == nil {
				t.Error("it succeeded")
			}
			if again := tried > 1; again != tt.again {
				t.Errorf("tried %d times", tried)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// runSession runs a session with what testClient serves.
func runSession(c *client, o remotecommand.StreamOptions) error {
	config, err := c.config()
	if err != nil {
		return err
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return err
	}
	return execute(context.Background(), target, config, o)
}

func TestPipedInput(t *testing.T) {
	server := streaming.NewServer(streaming.Config{})
	c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
		server.ServeCommand(w, r, streaming.Options{Stdin: true, Stdout: true}, func(_ context.Context, streams streaming.IO) error {
			_, err := io.Copy(streams.Stdout, streams.Stdin)
			return err
		})
	})
	var out bytes.Buffer
	if err := runSession(c, remotecommand.StreamOptions{Stdin: strings.NewReader("input"), Stdout: &out}); err != nil || out.String() != "input" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if err := server.Shutdown(t.Context(), io.EOF); err != nil {
		t.Error(err)
	}
}

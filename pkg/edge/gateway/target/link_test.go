package target_test

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
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/edge/gateway/target/fakedevice"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/pkg/streaming"
	"arhat.dev/aranya/test/framework/eventually"
)

const testTimeout = 20 * time.Second

var device = gateway.Device{Namespace: "edge", Name: "device-1", UID: "1234"}

// directory knows the one device.
type directory struct {
	mu          sync.Mutex
	certificate *v1alpha1.CertificateStatus
}

func (d *directory) Get(string, string) (*v1alpha1.EdgeDevice, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &v1alpha1.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{Namespace: device.Namespace, Name: device.Name, UID: device.UID},
		Status:     v1alpha1.EdgeDeviceStatus{Certificate: d.certificate},
	}, nil
}

func (d *directory) Stored(context.Context, string, string) (*v1alpha1.EdgeDevice, error) {
	return d.Get("", "")
}

func (d *directory) SetCertificate(_ context.Context, _ gateway.Device, c v1alpha1.CertificateStatus, _ time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.certificate = &c
	return nil
}

// sessions hands out the session once it has begun.
type sessions chan gateway.Session

func (s sessions) SessionStarted(session gateway.Session)                { s <- session }
func (s sessions) DeviceMessage(gateway.Session, *edgeapi.DeviceMessage) {}
func (s sessions) SessionEnded(gateway.Session, error)                   {}

// agent is the device's end.
type agent struct{ serve fakedevice.Handler }

func (agent) Hello(context.Context) *edgeapi.Hello {
	return &edgeapi.Hello{AgentVersion: "test", NodeStatus: &edgeapi.NodeStatus{}}
}
func (agent) Connected(context.Context, *edgeapi.Welcome, uplink.Sender) {}
func (agent) Message(*edgeapi.ServerMessage)                             {}
func (agent) Disconnected(error)                                         {}
func (agent) Usage() (cpu, memory uint64)                                { return 0, 0 }
func (a agent) Stream(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream) {
	a.serve(ctx, req, s)
}

// connect returns a session over a real link: mutual TLS on loopback.
func connect(t *testing.T) gateway.Session {
	t.Helper()
	authority, err := gateway.LoadOrCreateAuthority(t.Context(), fake.NewClientset(), "aranya-system",
		func(context.Context) ([]types.NamespacedName, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	listener, err := link.ListenTCP(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(sessions, 1)
	g, err := gateway.New(gateway.Config{
		Authority: authority, Devices: &directory{}, Handler: started,
		Replica: "replica-1", Listener: listener,
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	wg.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	token, _, err := g.IssueToken(ctx, device, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	dir, server := t.TempDir(), listener.Addr().String()
	joined, err := uplink.Join(ctx, uplink.JoinOptions{Server: server, Token: token, StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	client, err := uplink.New(uplink.Config{Joined: joined, StateDir: dir, Handler: agent{fakedevice.Host(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		if err := client.Run(ctx); err != nil {
			t.Errorf("uplink: %v", err)
		}
	})
	select {
	case session := <-started:
		return session
	case <-time.After(testTimeout):
		t.Fatal("the device did not connect")
		return nil
	}
}

// eventuallyIdle waits until no stream is open.
func eventuallyIdle(t *testing.T, session gateway.Session) {
	t.Helper()
	eventually.Succeeds(t, func() error {
		if n := session.Info().Streams; n > 0 {
			return fmt.Errorf("%d streams are still open", n)
		}
		return nil
	})
}

// TestCommandsOverALink goes the whole way, from the clients of kubectl to the device.
func TestCommandsOverALink(t *testing.T) {
	session := connect(t)
	streams := streaming.NewServer(streaming.Config{})
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		opts := streaming.Options{Stdin: q.Has("stdin"), Stdout: true}
		command, err := target.Exec(r.Context(), session, nil, q["command"], opts)
		if err != nil {
			http.Error(w, err.Error(), int(err.(apierrors.APIStatus).Status().Code))
			return
		}
		streams.ServeCommand(w, r, opts, command.Run)
	}))
	t.Cleanup(ts.Close)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		if err := streams.Shutdown(ctx, errors.New("the test is over")); err != nil {
			t.Error(err)
		}
	})
	for _, client := range []string{"SPDY", "WebSocket"} {
		t.Run(client, func(t *testing.T) {
			run := func(ctx context.Context, query string, opts remotecommand.StreamOptions) error {
				u, err := url.Parse(ts.URL + "?" + query)
				if err != nil {
					t.Fatal(err)
				}
				executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: u.Host}, http.MethodPost, u)
				if client == "WebSocket" {
					executor, err = remotecommand.NewWebSocketExecutor(&rest.Config{Host: u.Host}, http.MethodGet, u.String())
				}
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(ctx, testTimeout)
				defer cancel()
				return executor.StreamWithContext(ctx, opts)
			}
			const size = 8 << 20
			sent, received := sha256.New(), sha256.New()
			in := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
			if err := run(t.Context(), "command=cat&stdin=1", remotecommand.StreamOptions{Stdin: in, Stdout: received}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
				t.Error("other bytes came back")
			}
			err := run(t.Context(), "command=exit&command=42", remotecommand.StreamOptions{Stdout: io.Discard})
			var exit clientexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 42 {
				t.Errorf("got %v, want exit code 42", err)
			}
			// A client that goes away ends its command on the device.
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			result := make(chan error, 1)
			out, stdout := io.Pipe()
			go func() {
				result <- run(ctx, "command=wait", remotecommand.StreamOptions{Stdout: stdout})
			}()
			if _, err := io.ReadFull(out, make([]byte, len("waiting"))); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := <-result; err == nil {
				t.Error("an interrupted command looks like a success")
			}
			eventuallyIdle(t, session)
		})
	}
	if _, err := target.Exec(t.Context(), session, nil, []string{"forbidden"}, streaming.Options{Stdout: true}); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
}

func TestConnectionsOverALink(t *testing.T) {
	session := connect(t)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%x", sha256.Sum256(body))
	}))
	t.Cleanup(backend.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := target.Dialer(session, target.Address{})(ctx, uint16(backend.Listener.Addr().(*net.TCPAddr).Port))
		if err != nil {
			return nil, err
		}
		return target.NetConn(conn, session), nil
	}}
	client := &http.Client{Transport: transport, Timeout: testTimeout}
	payload := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
	want := fmt.Sprintf("%x", sha256.Sum256(payload))
	for range 3 {
		response, err := client.Post("http://device/", "application/octet-stream", bytes.NewReader(payload))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v", got, err)
		}
	}
	transport.CloseIdleConnections()
	eventuallyIdle(t, session)
	if _, err := target.Dialer(session, target.Address{})(t.Context(), 1); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a refused connection: %v", err)
	}
	eventuallyIdle(t, session)
}

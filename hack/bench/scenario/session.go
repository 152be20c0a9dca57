package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/hack/cluster/supervisor"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
)

// sessions opens sessions with real devices by one way: through kube-apiserver, or at aranya itself.
type sessions struct {
	config *rest.Config
	client versioned.Interface
}

func newSessions(config *rest.Config) (*sessions, error) {
	client, err := versioned.NewForConfig(config)
	return &sessions{config, client}, err
}

func (s *sessions) request(device, subresource string) *rest.Request {
	return s.client.AranyaV1alpha1().RESTClient().Get().Namespace(local.Namespace).Resource("edgedevices").Name(device).SubResource(subresource)
}

// run runs a command on the host of a device, as kubectl edge exec does.
func (s *sessions) run(ctx context.Context, device string, stdin io.Reader, stdout io.Writer, argv ...string) error {
	u := s.request(device, "exec").URL()
	query := url.Values{"command": argv, "stdout": {"true"}}
	if stdin != nil {
		query.Set("stdin", "true")
	}
	u.RawQuery = query.Encode()
	return runAt(ctx, s.config, u, stdin, stdout)
}

func runAt(ctx context.Context, config *rest.Config, u *url.URL, stdin io.Reader, stdout io.Writer) error {
	executor, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout})
}

// A session is open when the function that opened it has returned, which it does only when bytes from
// the device have come. Closing it waits for its end.
type session struct {
	close func() error
}

// openExec has cat run on the device, and the first byte come back.
func (s *sessions) openExec(ctx context.Context, device string) (*session, error) {
	in, stdin := io.Pipe()
	echo := &signal{seen: make(chan struct{})}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { ended <- s.run(ctx, device, in, echo, "cat") }()
	go func() { _, _ = stdin.Write([]byte("x")) }() // the pipe ends with the session
	finish := func() error {
		_ = stdin.Close() // cat ends with its input
		err := <-ended
		cancel()
		return err
	}
	select {
	case <-echo.seen:
		return &session{finish}, nil
	case err := <-ended:
		cancel()
		return nil, errors.Join(errors.New("the session ended before its first byte"), err, in.Close())
	}
}

// signal is closed by the first byte.
type signal struct {
	once sync.Once
	seen chan struct{}
}

// Write implements io.Writer.
func (s *signal) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.seen) })
	return len(p), nil
}

// openLog follows the log of the device's agent.
func (s *sessions) openLog(ctx context.Context, device string, follow bool) (*session, error) {
	request := s.request(device, "log").Param("tailLines", "1")
	if follow {
		request.Param("follow", "true")
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(body, make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("read the log of %s: %w", device, err), body.Close())
	}
	return &session{body.Close}, nil
}

// openForward connects with a port on the device's loopback that echoes.
func (s *sessions) openForward(device string, port int) (*session, error) {
	conn, err := s.dialForward(device, port)
	if err != nil {
		return nil, err
	}
	if err := echoOnce(conn, port); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &session{conn.Close}, nil
}

func (s *sessions) dialForward(device string, port int) (httpstream.Connection, error) {
	u := s.request(device, "portforward").URL()
	u.RawQuery = url.Values{"ports": {strconv.Itoa(port)}}.Encode()
	dialer, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, s.config)
	if err != nil {
		return nil, err
	}
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	return conn, err
}

// echo has bytes go through a port-forward and come back.
func (s *sessions) echo(device string, port int, size int64) (err error) {
	conn, err := s.dialForward(device, port)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	data, err := forwardStream(conn, port)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(data, zeros{}, size)
		sent <- err
	}()
	_, err = io.CopyN(io.Discard, data, size)
	if err != nil {
		return errors.Join(err, data.Reset())
	}
	return <-sent
}

// forwardStream makes one connection through a port-forward.
func forwardStream(conn httpstream.Connection, port int) (httpstream.Stream, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	failure, err := conn.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	_ = failure.Close() // only the other end writes
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	return conn.CreateStream(headers)
}

// echoOnce makes one connection through a port-forward, and has a byte come back. It stays open.
func echoOnce(conn httpstream.Connection, port int) error {
	data, err := forwardStream(conn, port)
	if err != nil {
		return err
	}
	if _, err := data.Write([]byte("x")); err != nil {
		return err
	}
	reply := make([]byte, 1)
	if _, err := io.ReadFull(data, reply); err != nil {
		return fmt.Errorf("no echo through the port-forward: %w", err)
	}
	if !bytes.Equal(reply, []byte("x")) {
		return fmt.Errorf("the echo through the port-forward is %q", reply)
	}
	return nil
}

// EchoCommand is how this program is called to be the server behind a port-forward, followed by a
// port.
const EchoCommand = "echo-server"

// echoPort is a port on the loopback of each device, which has a network of its own if this is root's.
const echoPort = 17007

// startEcho starts the server behind the port-forwards on the devices.
func startEcho(ctx context.Context, r *harness.Run, devices []string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	for i, name := range devices {
		if err := r.Cluster.Device(name).Start(ctx, supervisor.Service{
			Name: EchoCommand, Argv: []string{program, EchoCommand, strconv.Itoa(echoPortOf(r, i))},
			Env: os.Environ(), Log: filepath.Join(r.Cluster.Dir, "devices", name, "logs", "echo.log"),
		}); err != nil {
			return fmt.Errorf("start the echo server on %s: %w", name, err)
		}
	}
	return nil
}

// echoPortOf is the port of the i-th device: devices without networks of their own share one.
func echoPortOf(r *harness.Run, i int) int {
	if r.Cluster.State().Network != nil {
		return echoPort
	}
	return echoPort + i
}

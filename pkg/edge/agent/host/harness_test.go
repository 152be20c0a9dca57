package host

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/pods"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call is one end of a Stream call in memory.
type call struct {
	ctx       context.Context
	send      chan<- *edgeapi.StreamFrame
	receive   <-chan *edgeapi.StreamFrame
	closeOnce *sync.Once
	stalled   <-chan struct{} // closed when data can pass; nil: always
}

func (c *call) Context() context.Context { return c.ctx }

func (c *call) Send(f *edgeapi.StreamFrame) error {
	// As gRPC does: the bytes are the caller's again afterwards.
	if d, ok := f.Frame.(*edgeapi.StreamFrame_Data); ok {
		f = &edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Data{Data: &edgeapi.Data{Channel: d.Data.Channel, Data: append([]byte(nil), d.Data.Data...)}}}
		if c.stalled != nil {
			select {
			case <-c.stalled:
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
		}
	}
	select {
	case c.send <- f:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

func (c *call) Recv() (*edgeapi.StreamFrame, error) {
	select {
	case f, ok := <-c.receive:
		if !ok {
			return nil, io.EOF
		}
		return f, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

func (c *call) CloseSend() error {
	c.closeOnce.Do(func() { close(c.send) })
	return nil
}

// session is a running session, seen from the server.
type session struct {
	*stream.Stream
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{} // Serve of the host has returned
}

// open has a host serve a request.
func open(t *testing.T, h *Host, request *edgeapi.OpenStream) *session {
	t.Helper()
	return openStalled(t, h, request, nil)
}

// openStalled is open over a link that takes no data before a channel is closed.
func openStalled(t *testing.T, h *Host, request *edgeapi.OpenStream, stalled <-chan struct{}) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	up, down := make(chan *edgeapi.StreamFrame), make(chan *edgeapi.StreamFrame)
	device := stream.NewDevice(&call{ctx: ctx, send: up, receive: down, closeOnce: &sync.Once{}, stalled: stalled})
	server := &call{ctx: ctx, send: down, receive: up, closeOnce: &sync.Once{}}
	s := &session{Stream: stream.NewServer(server, cancel), t: t, cancel: cancel, ended: make(chan struct{})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve()
		_ = server.CloseSend() // the RPC handler returns
	}()
	go func() {
		defer close(s.ended)
		h.Serve(device.Context(), request, device)
		device.Close()
	}()
	t.Cleanup(func() {
		s.Close()
		cancel()
		<-served
		s.waitEnded()
	})
	return s
}

func (s *session) waitEnded() {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.t.Error("the host does not end the session")
	}
}

// output reads a channel to its end.
func (s *session) output(channel edgeapi.Channel) string {
	s.t.Helper()
	data, err := io.ReadAll(s.Reader(channel))
	if err != nil {
		s.t.Errorf("channel %s: %v after %q", channel, err, data)
	}
	return string(data)
}

// finish returns the output and the result.
func (s *session) finish() (stdout, stderr string, result *edgeapi.Result) {
	s.t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { stderr = s.output(edgeapi.Channel_STDERR) })
	stdout = s.output(edgeapi.Channel_STDOUT)
	wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := s.Wait(ctx)
	if err != nil {
		s.t.Errorf("no result: %v", err)
	}
	return stdout, stderr, result
}

// refused expects a result before the session has begun.
func (s *session) refused() *edgeapi.Result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := s.Started(ctx)
	if err != nil || result == nil {
		s.t.Fatalf("the session began, or broke: %v, %v", result, err)
	}
	return result
}

// nothing has no pods.
type nothing struct{}

func (nothing) ContainerID(string, string) (string, error) { return "", pods.ErrNotFound }
func (nothing) SandboxID(string) (string, error)           { return "", pods.ErrNotFound }
func (nothing) ContainerLog(string, string, bool) (string, string, error) {
	return "", "", pods.ErrNotFound
}

// newHost returns a host on which everything is allowed that is by default.
func newHost(t *testing.T, change ...func(*config.Configuration, *edgeapi.HostPolicy)) *Host {
	t.Helper()
	c := config.New()
	c.Server = "localhost:1"
	cloud := &edgeapi.HostPolicy{AllowExec: true, AllowAttach: true, AllowLog: true, AllowPortForward: true}
	for _, f := range change {
		f(c, cloud)
	}
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	h := New(Config{
		Policy: &c.Policy, Shell: c.Shell, Pods: nothing{},
		Summary: func(context.Context, bool) (*statsapi.Summary, error) {
			return &statsapi.Summary{Node: statsapi.NodeStats{NodeName: "device-1"}}, nil
		},
	})
	h.SetCloudPolicy(cloud)
	return h
}

func execRequest(e *edgeapi.Exec) *edgeapi.OpenStream {
	return &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Exec{Exec: e}}
}

func logRequest(l *edgeapi.Log) *edgeapi.OpenStream {
	return &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Log{Log: l}}
}

func dialRequest(d *edgeapi.Dial) *edgeapi.OpenStream {
	return &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Dial{Dial: d}}
}

func sh(script string) *edgeapi.Exec {
	return &edgeapi.Exec{Command: []string{"sh", "-c", script}, Stdout: true, Stderr: true}
}

// Package cri speaks the Container Runtime Interface with containerd or CRI-O over their Unix socket.
// It adds to k8s.io/cri-client what an agent needs: one object for both services that may be made
// before the runtime is up, an error that says what to do about a runtime that is too old, and the
// streaming endpoints behind exec, attach and port-forward. It knows nothing of pods.
package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

const (
	// requestTimeout is the kubelet's --runtime-request-timeout. cri-client allows more to the calls
	// that take long by nature.
	requestTimeout = 2 * time.Minute
	// connectTimeout bounds one attempt to reach a runtime that was not there before.
	connectTimeout = 10 * time.Second
)

// client is both CRI services of one runtime. The connection is made when it is first needed; from
// then on gRPC restores it.
type client struct {
	runtime.Unsupported

	endpoint string
	socket   string

	mu       sync.Mutex
	services *services
	closed   bool
}

type services struct {
	internalapi.RuntimeService
	images internalapi.ImageManagerService
}

var _ runtime.Runtime = &client{}

// New returns the runtime at endpoint, for example unix:///run/containerd/containerd.sock. A runtime
// that does not answer yet is not an error: the calls fail until it does. The error says that the
// endpoint cannot be used at all, or that the runtime there does not speak CRI v1.
func New(ctx context.Context, endpoint string) (runtime.Runtime, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "unix" || u.Path == "" || u.Host != "" {
		return nil, fmt.Errorf("container runtime endpoint %q: want the form unix:///path/to/socket", endpoint)
	}
	c := &client{endpoint: endpoint, socket: u.Path}
	if _, err := c.connected(ctx); err != nil {
		if status.Code(err) == codes.Unimplemented {
			return nil, err
		}
		klog.FromContext(ctx).Info("The container runtime does not answer yet", "endpoint", endpoint, "err", err)
	}
	return c, nil
}

// connected returns the services, and connects to them if that has not succeeded before.
func (c *client) connected(ctx context.Context) (*services, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.services != nil {
		return c.services, nil
	}
	if c.closed {
		return nil, errors.New("the connection to the container runtime is closed")
	}
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	runtimeService, err := criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(c.endpoint).
		WithConnectionTimeout(requestTimeout).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return nil, describe(c.endpoint, err)
	}
	imageService, err := criclient.NewRemoteImageServiceBuilder().WithEndpoint(c.endpoint).
		WithConnectionTimeout(requestTimeout).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return nil, errors.Join(describe(c.endpoint, err), runtimeService.Close(ctx))
	}
	c.services = &services{RuntimeService: runtimeService, images: imageService}
	return c.services, nil
}

// check makes sure that the runtime answers, on a connection of its own: cri-client leaves its connection
// open when it finds that it does not.
func (c *client) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	// A socket that is not there fails at once, and with an error that says so.
	socket, err := net.DialTimeout("unix", c.socket, connectTimeout)
	if err != nil {
		return fmt.Errorf("container runtime at %s: %w%s", c.endpoint, err, hint(err))
	}
	socket.Close()
	conn, err := grpc.NewClient("unix://"+c.socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return describe(c.endpoint, err)
	}
	defer conn.Close()
	_, err = runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	if err == nil {
		_, err = runtimeapi.NewImageServiceClient(conn).ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	}
	if err != nil {
		return describe(c.endpoint, err)
	}
	return nil
}

func hint(err error) string {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return ": is the runtime installed and running?"
	case errors.Is(err, os.ErrPermission):
		return ": the agent must run as root, or as a user who may use this socket"
	}
	return ""
}

func describe(endpoint string, err error) error {
	if status.Code(err) == codes.Unimplemented {
		return fmt.Errorf("the container runtime at %s does not speak CRI v1: containerd 1.6, CRI-O 1.23 or newer is needed, "+
			"with its CRI plugin enabled: %w", endpoint, err)
	}
	return fmt.Errorf("container runtime at %s: %w", endpoint, err)
}

// Close closes the connections. Later calls fail.
func (c *client) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.services == nil {
		return nil
	}
	s := c.services
	c.services = nil
	return errors.Join(s.RuntimeService.Close(ctx), s.images.Close(ctx))
}

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Client drives a supervisor through its control socket. It may be used concurrently.
type Client struct {
	path string
}

// NewClient returns a client for the control socket at path.
func NewClient(path string) *Client { return &Client{path: path} }

// Start starts a service; it is no error if it runs already.
func (c *Client) Start(ctx context.Context, svc Service) error {
	_, err := c.call(ctx, &request{Op: opStart, Service: &svc})
	return err
}

// Resume starts a service again that was stopped.
func (c *Client) Resume(ctx context.Context, name string) error {
	_, err := c.call(ctx, &request{Op: opStart, Name: name})
	return err
}

// Stop ends a service's process and returns when it has ended.
func (c *Client) Stop(ctx context.Context, name string) error {
	_, err := c.call(ctx, &request{Op: opStop, Name: name})
	return err
}

// Signal sends a signal to a service's process. The supervisor restarts the process if it dies.
func (c *Client) Signal(ctx context.Context, name string, sig syscall.Signal) error {
	_, err := c.call(ctx, &request{Op: opSignal, Name: name, Signal: int(sig)})
	return err
}

// List returns the services in the order they were started.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	resp, err := c.call(ctx, &request{Op: opList})
	if err != nil {
		return nil, err
	}
	return resp.Services, nil
}

// Status returns the state of one service.
func (c *Client) Status(ctx context.Context, name string) (Status, error) {
	list, err := c.List(ctx)
	if err != nil {
		return Status{}, err
	}
	for _, s := range list {
		if s.Name == name {
			return s, nil
		}
	}
	return Status{}, fmt.Errorf("there is no service %q", name)
}

// Shutdown tells the supervisor to stop its services and to end. It does not wait for that.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.call(ctx, &request{Op: opShutdown})
	return err
}

// WaitReady waits until the supervisor answers.
func (c *Client) WaitReady(ctx context.Context) error {
	for {
		_, err := c.List(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the supervisor at %s does not answer: %w", c.path, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *Client) call(ctx context.Context, req *request) (*response, error) {
	short, done, err := shorten(c.path)
	if err != nil {
		return nil, err
	}
	defer done()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", short)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return nil, err
	}
	var resp response
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		return nil, err
	}
	if resp.Error != "" {
		return nil, errors.New(resp.Error)
	}
	return &resp, nil
}

// shorten returns another path for the same file that goes through a file descriptor of its
// directory, which is open until done is called.
func shorten(path string) (short string, done func(), err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { _ = dir.Close() }, nil
}

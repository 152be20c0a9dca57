package cri

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

// ExecStream runs a command through the URL that the runtime gives out for it.
func (c *client) ExecStream(ctx context.Context, containerID string, command []string, streams runtime.IO) error {
	resp, err := c.Exec(ctx, &runtimeapi.ExecRequest{
		ContainerId: containerID,
		Cmd:         command,
		Tty:         streams.TTY,
		Stdin:       streams.Stdin != nil,
		Stdout:      streams.Stdout != nil,
		Stderr:      streams.Stderr != nil && !streams.TTY,
	})
	if err != nil {
		return err
	}
	return stream(ctx, resp.Url, streams)
}

// AttachStream attaches through the URL that the runtime gives out for it.
func (c *client) AttachStream(ctx context.Context, containerID string, streams runtime.IO) error {
	resp, err := c.Attach(ctx, &runtimeapi.AttachRequest{
		ContainerId: containerID,
		Tty:         streams.TTY,
		Stdin:       streams.Stdin != nil,
		Stdout:      streams.Stdout != nil,
		Stderr:      streams.Stderr != nil && !streams.TTY,
	})
	if err != nil {
		return err
	}
	return stream(ctx, resp.Url, streams)
}

// restConfig reaches a runtime's streaming server: never through a proxy, as it is on this device.
func restConfig(target *url.URL) *rest.Config {
	return &rest.Config{
		Host:  target.Host,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	}
}

func stream(ctx context.Context, target string, streams runtime.IO) error {
	u, err := url.Parse(target)
	if err != nil {
		return fmt.Errorf("the runtime's streaming URL: %w", err)
	}
	executor, err := remotecommand.NewSPDYExecutor(restConfig(u), http.MethodPost, u)
	if err != nil {
		return err
	}
	opts := remotecommand.StreamOptions{
		Stdin:  streams.Stdin,
		Stdout: streams.Stdout,
		Stderr: streams.Stderr,
		Tty:    streams.TTY,
	}
	if streams.TTY {
		opts.Stderr = nil
		if streams.Resize != nil {
			opts.TerminalSizeQueue = sizeQueue{ctx: ctx, sizes: streams.Resize}
		}
	}
	err = executor.StreamWithContext(ctx, opts)
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitStatus()}
	}
	return err
}

// sizeQueue adapts a channel to remotecommand.
type sizeQueue struct {
	ctx   context.Context
	sizes <-chan runtime.TerminalSize
}

// Next returns nil when no more sizes will come.
func (q sizeQueue) Next() *remotecommand.TerminalSize {
	select {
	case size, ok := <-q.sizes:
		if !ok {
			return nil
		}
		return &remotecommand.TerminalSize{Width: size.Width, Height: size.Height}
	case <-q.ctx.Done():
		return nil
	}
}

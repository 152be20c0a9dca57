package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

// maxRestarts is how often a service may die while it is waited for: it may race with others that
// are starting, but not for ever.
const maxRestarts = 3

// tailBytes is how much of a log is shown when its service fails.
const tailBytes = 3000

// waitService waits until check succeeds. It gives up early if the service keeps dying, and shows
// the end of its log.
func waitService(ctx context.Context, client *supervisor.Client, service string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		attempt, cancelAttempt := context.WithTimeout(ctx, 5*time.Second)
		err := check(attempt)
		cancelAttempt()
		if err == nil {
			return nil
		}
		status, statusErr := client.Status(ctx, service)
		if statusErr == nil && status.Restarts >= maxRestarts {
			return fmt.Errorf("%s keeps failing (%s)%s", service, status.LastExit, tail(status.Log))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w%s", service, startTimeout, err, tail(status.Log))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tail describes a log file by its name and its end.
func tail(path string) string {
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > tailBytes {
		_, _ = f.Seek(-tailBytes, io.SeekEnd)
	}
	data, _ := io.ReadAll(io.LimitReader(f, tailBytes))
	if i := bytes.IndexByte(data, '\n'); len(data) == tailBytes && i >= 0 {
		data = data[i+1:]
	}
	return fmt.Sprintf("\nlog file %s ends with:\n%s", path, data)
}

// Poll calls check with a pause between until it returns nil. When the time is over, or ctx ends, it returns check's
// last error and why it has given up.
func Poll(ctx context.Context, timeout, period time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not within %s", timeout))
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(period):
		}
	}
}

// freePorts sets each to a port that is free now.
func freePorts(ports ...*int) error {
	for _, port := range ports {
		if *port != 0 {
			continue
		}
		// All are held until the last is found, so that none comes twice.
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		*port = l.Addr().(*net.TCPAddr).Port
	}
	return nil
}

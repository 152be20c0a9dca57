package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
)

const (
	// portForwardProtocol is the subprotocol of CRI's port-forward endpoint.
	portForwardProtocol = "portforward.k8s.io"
	// maxErrorMessage bounds what is read of a runtime's message.
	maxErrorMessage = 4096
)

// DialPod opens one SPDY connection per call, so that connections cannot hold up one another. Whether
// somebody listens on the port is only known once the runtime has tried: the error comes from Read.
func (c *client) DialPod(ctx context.Context, sandboxID string, port uint16) (runtime.Conn, error) {
	resp, err := c.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: sandboxID, Port: []int32{int32(port)}})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(resp.Url)
	if err != nil {
		return nil, fmt.Errorf("the runtime's streaming URL: %w", err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(restConfig(u))
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	conn, _, err := spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, req, portForwardProtocol)
	if err != nil {
		return nil, fmt.Errorf("port-forward endpoint of the runtime: %w", err)
	}
	pc, err := newPodConn(ctx, conn, port)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return pc, nil
}

// podConn is one forwarded connection: a data stream, and an error stream on which the runtime says
// why the data ended.
type podConn struct {
	conn httpstream.Connection
	data httpstream.Stream

	failure   chan struct{} // closed when the error stream has ended
	err       error         // valid after that
	closeOnce sync.Once
}

func newPodConn(ctx context.Context, conn httpstream.Connection, port uint16) (*podConn, error) {
	headers := http.Header{}
	headers.Set(v1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(v1.PortForwardRequestIDHeader, "0")
	headers.Set(v1.StreamType, v1.StreamTypeError)
	errorStream, err := conn.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	if err := errorStream.Close(); err != nil { // nothing is sent on it from this end
		return nil, err
	}
	pc := &podConn{conn: conn, failure: make(chan struct{})}
	go func() { // ends with the connection at the latest
		defer close(pc.failure)
		message, _ := io.ReadAll(io.LimitReader(errorStream, maxErrorMessage))
		if len(message) > 0 {
			pc.err = fmt.Errorf("port %d: %s", port, message)
		}
	}()
	headers.Set(v1.StreamType, v1.StreamTypeData)
	if pc.data, err = conn.CreateStream(headers); err == nil {
		return pc, nil
	}
	// A runtime that cannot connect resets the stream, maybe before it has accepted it.
	select {
	case <-pc.failure:
		if pc.err != nil {
			err = pc.err
		}
	case <-ctx.Done():
	}
	return nil, err
}

// Read returns the runtime's message as the error if that is why the data ended.
func (c *podConn) Read(p []byte) (int, error) {
	n, err := c.data.Read(p)
	if n > 0 || err == nil {
		return n, nil
	}
	// The message may still be on its way through this process when the connection has ended.
	<-c.failure
	if c.err != nil {
		return 0, c.err
	}
	return 0, err
}

func (c *podConn) Write(p []byte) (int, error) { return c.data.Write(p) }

// CloseWrite tells the other end that no more data comes.
func (c *podConn) CloseWrite() error { return c.data.Close() }

func (c *podConn) Close() error {
	var err error
	c.closeOnce.Do(func() { err = c.conn.Close() })
	return err
}

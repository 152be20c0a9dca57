package streaming

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"arhat.dev/aranya/pkg/streaming/spdy"
)

// resettingClient is a stream that its client resets. Reading waits until then.
type resettingClient struct {
	reset    chan struct{}
	writeErr error
}

func (c *resettingClient) Read([]byte) (int, error) {
	<-c.reset
	return 0, spdy.ErrReset
}

func (c *resettingClient) Write(p []byte) (int, error) {
	if c.writeErr != nil {
		return 0, c.writeErr
	}
	return len(p), nil
}

// Close is called when there is nothing more to write. It makes the client reset its stream, as kubectl does.
func (c *resettingClient) Close() error {
	close(c.reset)
	return nil
}

// source is a connection from which something can be read, and then perhaps an error.
type source struct{ io.Reader }

func (source) Write(p []byte) (int, error) { return len(p), nil }
func (source) Close() error                { return nil }
func (source) CloseWrite() error           { return nil }

// A client is told why there is no more to read, but not of what it has done itself.
func TestRelayReports(t *testing.T) {
	broken := errors.New("the device ended the connection")
	for name, test := range map[string]struct {
		writeErr, readErr, want error
	}{
		"the end":                      {nil, io.EOF, nil},
		"the device fails":             {nil, broken, broken},
		"the client resets its stream": {io.ErrClosedPipe, io.EOF, nil},
	} {
		t.Run(name, func(t *testing.T) {
			conn := source{io.MultiReader(strings.NewReader("some data"), iotest.ErrReader(test.readErr))}
			over := make(chan error, 1)
			relay(&resettingClient{reset: make(chan struct{}), writeErr: test.writeErr}, conn, testTimeout, func(err error) { over <- err })
			if err := <-over; !errors.Is(err, test.want) {
				t.Errorf("reported %v, want %v", err, test.want)
			}
		})
	}
}

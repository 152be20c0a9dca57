package host

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// refused is a connection of which the runtime says only when it is read that there is none.
type refused struct{}

func (refused) Read([]byte) (int, error)    { return 0, errors.New("port 83: connection refused") }
func (refused) Write(p []byte) (int, error) { return len(p), nil }
func (refused) CloseWrite() error           { return nil }
func (refused) Close() error                { return nil }

// The result comes before any end of data, which a server would take for a proper one.
func TestBrokenConnectionHasNoEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	sent, received := make(chan *edgeapi.StreamFrame), make(chan *edgeapi.StreamFrame)
	device := stream.NewDevice(&call{ctx: ctx, send: sent, receive: received, closeOnce: &sync.Once{}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = device.Finish(resultOf(splice(ctx, device.Conn(), refused{})))
		device.Close()
	}()
	frame := <-sent
	if result := frame.GetResult(); !strings.Contains(result.GetMessage(), "connection refused") {
		t.Errorf("the first frame is %v", frame)
	}
	cancel()
	<-done
}

package spdy

import (
	"testing"
	"time"

	mobyspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// A client that leaves is noticed although its input waits for a reader, behind which the end of the connection cannot be
// read.
func TestClientLeavesWhileInputWaits(t *testing.T) {
	server, client := tcp(t)
	conn := NewConn(server, server, usual, func(*Stream) (func(func()), error) { return nil, nil }) // nobody reads
	conn.probeInterval = time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- conn.Serve(t.Context()) }()
	c, err := mobyspdy.NewClientConnection(client)
	if err != nil {
		t.Fatal(err)
	}
	stream := open(t, c, "stdin")
	filled, written := make(chan struct{}), make(chan error, 1)
	go func() {
		for piece := range 1 << 20 {
			if piece == queued+1 { // more than what waits
				close(filled)
			}
			if _, err := stream.Write(make([]byte, maxData)); err != nil {
				written <- err
				return
			}
		}
	}()
	wait(t, filled)
	client.Close()
	if err := wait(t, written); err == nil {
		t.Error("the client could write after its end")
	}
	if err := wait(t, ended); err != nil {
		t.Error(err)
	}
}

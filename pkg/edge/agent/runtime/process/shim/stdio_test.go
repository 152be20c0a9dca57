package shim

import (
	"errors"
	"os"
	"testing"
)

// TestFinishWhileClientsDetach ends a container while its clients go away by themselves.
func TestFinishWhileClientsDetach(t *testing.T) {
	for range 20 {
		s := &stdio{sinks: map[*sink]struct{}{}}
		var clients []*sink
		for range maxAttached {
			stdout, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			c := &sink{stdout: stdout}
			clients = append(clients, c)
			if !s.attach(c) {
				t.Fatal("a client was refused")
			}
		}
		detached := make(chan struct{})
		go func() {
			defer close(detached)
			for _, c := range clients {
				s.detach(c)
			}
		}()
		s.finish()
		<-detached
		for _, c := range clients {
			if err := c.stdout.Close(); !errors.Is(err, os.ErrClosed) {
				t.Fatalf("the output of a client was not closed: %v", err)
			}
		}
		if s.attach(&sink{}) {
			t.Fatal("a client was attached after the end")
		}
	}
}

package stream_test

import "testing"

// A device that sends when the call is over does not wait for a reader of its input.
func TestSendBehindUnreadInput(t *testing.T) {
	p := newPair(t, false)
	if _, err := p.server.Writer(stdin).Write(make([]byte, 500<<10)); err != nil {
		t.Fatal(err)
	}
	p.server.Close()
	failed := make(chan struct{})
	go func() {
		defer close(failed)
		for {
			if _, err := p.device.Writer(stdout).Write([]byte("output")); err != nil {
				return
			}
		}
	}()
	receive(t, failed, "sending to fail")
	receive(t, p.device.Context().Done(), "the device to notice the end")
}

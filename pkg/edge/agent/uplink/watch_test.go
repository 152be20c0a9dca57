package uplink

import (
	"context"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

type wire struct{ net.Conn }

func (wire) Read(p []byte) (int, error) { return len(p), nil }

// A server that falls silent is given up after twice the heartbeat interval and a little, not earlier.
func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &Client{}
		client.id.Store(&deviceIdentity{cert: &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(10000 * time.Hour)}})
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		c := &control{
			client: client, raw: link.NewConn(wire{}, link.MethodGRPC),
			ctx: ctx, cancel: cancel, beat: make(chan time.Duration, 1), renewal: make(chan struct{}, 1),
		}
		go c.watch(40 * time.Second)
		for range 10 { // heard from in time, again and again
			time.Sleep(85 * time.Second)
			_, _ = c.raw.Read(make([]byte, 1))
		}
		c.beat <- 10 * time.Second // the server says it will speak more often
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Fatalf("gave up early: %v", context.Cause(ctx))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := context.Cause(ctx); err == nil || !strings.Contains(err.Error(), "nothing was heard") {
			t.Errorf("did not give up: %v", err)
		}
	})
}

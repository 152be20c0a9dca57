package gateway_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/test/framework/eventually"
)

// chooser is an uplink.Chooser with a link that is preferred and one that always works.
type chooser struct {
	up, preferred atomic.Bool
	proven        atomic.Int32
	disproven     atomic.Int32
	dialled       atomic.Int32 // by Better
	address       string
	other         string // that is dialled once address is disproven
}

func (c *chooser) Dial(ctx context.Context, _ string) (*link.Conn, error) {
	return link.TCP{}.Dial(ctx, c.Dialled())
}

func (c *chooser) Dialled() string {
	if c.disproven.Load() > 0 {
		return c.other
	}
	return c.address
}

func (c *chooser) Proven() { c.proven.Add(1) }

func (c *chooser) Disproven() bool {
	c.disproven.Add(1)
	return c.other != ""
}

func (c *chooser) Better() link.Dialer {
	if c.preferred.Load() {
		return nil
	}
	return betterLink{c}
}

func (c *chooser) Prefer(link.Dialer) { c.preferred.Store(true) }

type betterLink struct{ c *chooser }

func (b betterLink) Dial(ctx context.Context, _ string) (*link.Conn, error) {
	b.c.dialled.Add(1)
	if !b.c.up.Load() {
		return nil, errors.New("still blocked")
	}
	return link.TCP{}.Dial(ctx, b.c.address)
}

// TestProbe: a device on a fallback link goes back to the one it prefers once that works, but not while a
// stream is open.
func TestProbe(t *testing.T) {
	w := newWorld(t)
	c := &chooser{address: w.address}
	d, s := connectedWith(t, w, cat(0), func(_ *device, config *uplink.Config) {
		config.Dialer, config.ProbeInterval = c, 10*time.Millisecond
	})
	if c.proven.Load() != 1 {
		t.Errorf("the link was proven %d times", c.proven.Load())
	}
	eventually.Holds(t, "the better link is tried again and again", func() bool { return c.dialled.Load() > 2 })

	st, err := s.OpenStream(t.Context(), execRequest("cat"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	probe := c.dialled.Load()
	c.up.Store(true)
	stdin := st.Writer(edgeapi.Channel_STDIN)
	for range 20 {
		if _, err := stdin.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Reader(edgeapi.Channel_STDOUT).Read(make([]byte, 1)); err != nil {
			t.Fatalf("the stream was cut: %v", err)
		}
	}
	if n := c.dialled.Load(); n > probe+1 {
		t.Errorf("the better link was tried %d times while a stream was open", n-probe)
	}
	_ = stdin.Close()
	waitResult(t, st)

	if err := receive(t, d.disconnected, "the device to leave"); !strings.Contains(err.Error(), "works again") {
		t.Errorf("it left because of %v", err)
	}
	w.handler.next(t, "ended")
	receive(t, d.connected, "the device to connect by the better link")
	w.handler.next(t, "started")
	if !c.preferred.Load() || c.proven.Load() != 2 {
		t.Errorf("the link is not the better one, or was proven %d times", c.proven.Load())
	}
	d.stop()
}

// TestNextLink: a device that may not use its link any more, because its EdgeDevice names another broker, is not sent
// away for long, but takes its next link at once.
func TestNextLink(t *testing.T) {
	w := newWorld(t)
	var forbidden atomic.Bool
	address, stop := w.serve(t, func(gateway.Device, net.Addr) error {
		if forbidden.Load() {
			return errors.New("not by this broker")
		}
		return nil
	})
	defer stop()
	d := w.directory.put("d", "1")
	c := &chooser{address: address, other: w.address}
	c.preferred.Store(true)
	dev := w.run(t, w.enrol(t, d), func(_ *device, config *uplink.Config) {
		config.Dialer, config.MaxBackoff = c, time.Hour // which begins the pause of a device that is not welcome
	})
	w.handler.next(t, "started")
	forbidden.Store(true)
	w.DeviceChanged(d.Namespace, d.Name)
	if r := w.handler.next(t, "ended").reason; status.Code(r) != codes.NotFound {
		t.Errorf("ended because of %v", r)
	}
	if m := w.handler.next(t, "started").s.Info().Method; m != link.MethodGRPC || c.disproven.Load() != 1 {
		t.Errorf("connected by %s; the first link was disproven %d times", m, c.disproven.Load())
	}
	dev.stop()
}

// TestJoinByNextLink: one that may not enrol by its first link does by the next one, with the same token.
func TestJoinByNextLink(t *testing.T) {
	w := newWorld(t)
	address, stop := w.serve(t, func(gateway.Device, net.Addr) error { return errors.New("not by this broker") })
	defer stop()
	d := w.directory.put("d", "1")
	for name, tt := range map[string]struct {
		dialer link.Dialer
		code   codes.Code
	}{
		"there is no choice": {link.TCP{}, codes.NotFound},
		"there is no other":  {&chooser{address: address}, codes.NotFound},
		"there is":           {&chooser{address: address, other: w.address}, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			token := w.token(t, d, time.Hour)
			err := joinAndLeave(t.Context(), uplink.JoinOptions{Server: address, Token: token, StateDir: t.TempDir(), Dialer: tt.dialer})
			if status.Code(err) != tt.code {
				t.Errorf("Join: %v", err)
			}
		})
	}
}

func waitResult(t *testing.T, st *stream.Stream) {
	t.Helper()
	if _, err := st.Wait(t.Context()); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
}

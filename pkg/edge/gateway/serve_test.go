package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link"
)

// serve has the gateway take connections from one more listener.
func (w *world) serve(t *testing.T, permit gateway.Permit) (address string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, link.NewListener(tcp, link.MethodMQTT), permit) }()
	return tcp.Addr().String(), func() {
		cancel()
		if err := receive(t, done, "the end of Serve"); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func TestServeAnotherListener(t *testing.T) {
	w := newWorld(t)
	d := w.directory.put("d", "1")
	var forbidden atomic.Bool
	address, stop := w.serve(t, func(device gateway.Device, remote net.Addr) error {
		if device != d || remote == nil {
			t.Errorf("asked for %v from %v", device, remote)
		}
		if forbidden.Load() {
			return errors.New("use another broker")
		}
		return nil
	})
	dir := w.enrol(t, d)
	over := func(_ *device, c *uplink.Config) { c.Server = address }
	dev := w.run(t, dir, over)
	s := w.handler.next(t, "started").s
	if m := s.Info().Method; m != link.MethodMQTT {
		t.Errorf("the link's method is %q", m)
	}
	// The link lives on without its listener.
	stop()
	if _, err := net.Dial("tcp", address); err == nil {
		t.Error("the listener was not closed")
	}
	w.DeviceChanged(d.Namespace, d.Name)
	select {
	case <-s.Done():
		t.Fatal("the session ended with the listener")
	default:
	}
	// Until it may not be used any more.
	forbidden.Store(true)
	w.DeviceChanged(d.Namespace, d.Name)
	if r := w.handler.next(t, "ended").reason; !strings.Contains(r.Error(), "another broker") {
		t.Errorf("ended because of %v", r)
	}
	dev.stop()
}

func TestServeRefuses(t *testing.T) {
	w := newWorld(t)
	d := w.directory.put("d", "1")
	address, stop := w.serve(t, func(gateway.Device, net.Addr) error { return errors.New("not by this broker") })
	defer stop()
	// Neither enrolling, which leaves the token good,
	token, _, err := w.IssueToken(t.Context(), d, 1e12)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = joinAndLeave(t.Context(), uplink.JoinOptions{Server: address, Token: token, StateDir: dir})
	wantCode(t, err, codes.NotFound, "not by this broker")
	if err := joinAndLeave(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: dir}); err != nil {
		t.Fatal(err)
	}
	// nor connecting.
	w.address = address
	wantCode(t, w.connectError(t, dir), codes.NotFound, "not by this broker")
	// Who has but to connect again is not sent away for long.
	elsewhere, stop := w.serve(t, func(gateway.Device, net.Addr) error { return fmt.Errorf("%w: another password", gateway.ErrElsewhere) })
	defer stop()
	w.address = elsewhere
	wantCode(t, w.connectError(t, dir), codes.Unavailable, "another password")
}

// TestServeEndsWithTheGateway: whoever has the listener is told that it is not to blame, whether the gateway
// stops then or has stopped before.
func TestServeEndsWithTheGateway(t *testing.T) {
	w := newWorld(t)
	ends := make(chan error, 2)
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { ends <- w.Serve(t.Context(), link.NewListener(l, link.MethodMQTT), nil) }()
		w.stop()
		if err := receive(t, ends, "the end of Serve"); !errors.Is(err, gateway.ErrStopping) {
			t.Errorf("Serve: %v", err)
		}
		if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
			t.Error("the listener was not closed")
		}
	}
}

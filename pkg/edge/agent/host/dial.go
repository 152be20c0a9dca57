package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

const dialTimeout = 15 * time.Second

func (h *Host) dial(ctx context.Context, r *edgeapi.Dial, s *stream.Stream) error {
	if r.GetPort() == 0 || r.GetPort() > 65535 {
		return failf(metav1.StatusReasonBadRequest, "%d is not a port: it must be from 1 to 65535", r.GetPort())
	}
	var conn runtime.Conn
	var err error
	connected := make(chan struct{})
	go func() { // whose stack goes with it; that of the session stays small
		defer close(connected)
		if conn, err = h.connect(ctx, r, uint16(r.GetPort())); err != nil {
			return
		}
		if err = s.Ready(); err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	<-connected
	if err != nil {
		return err
	}
	return splice(ctx, s.Conn(), conn)
}

func (h *Host) connect(ctx context.Context, r *edgeapi.Dial, port uint16) (runtime.Conn, error) {
	switch {
	case r.GetPodUid() != "":
		return h.dialPod(ctx, r.GetPodUid(), port)
	case r.GetHost() == "":
		return h.dialLoopback(ctx, port)
	}
	return h.dialNetwork(ctx, r.GetHost(), port)
}

func (h *Host) dialPod(ctx context.Context, uid string, port uint16) (runtime.Conn, error) {
	sandbox, err := h.config.Pods.SandboxID(uid)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return h.config.Runtime.DialPod(ctx, sandbox, port)
}

func (h *Host) dialLoopback(ctx context.Context, port uint16) (runtime.Conn, error) {
	if err := h.demand(rightLoopback); err != nil {
		return nil, err
	}
	conn, err := dialAddr(ctx, netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	if err != nil {
		var v6Err error
		if conn, v6Err = dialAddr(ctx, netip.IPv6Loopback(), port); v6Err != nil {
			return nil, failf(metav1.StatusReasonServiceUnavailable, "cannot connect to port %d of the device: %v", port, err)
		}
	}
	return conn, nil
}

// dialNetwork connects to a host of the device's network. Its name is looked up once, and the
// connection is made to an address that was checked: a name cannot change its meaning in between.
func (h *Host) dialNetwork(ctx context.Context, host string, port uint16) (runtime.Conn, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, failf(metav1.StatusReasonBadRequest, "the device cannot look up %q: %v", host, err)
	}
	var refused, failed error
	for _, addr := range addrs {
		addr = addr.Unmap()
		if err := h.demandDestination(host, addr, port); err != nil {
			refused = err
			continue
		}
		conn, err := dialAddr(ctx, addr, port)
		if err == nil {
			return conn, nil
		}
		failed = failf(metav1.StatusReasonServiceUnavailable, "the device cannot connect to %s: %v", net.JoinHostPort(host, strconv.Itoa(int(port))), err)
	}
	if failed != nil {
		return nil, failed
	}
	return nil, refused
}

// demandDestination decides on one address. One that leads back to the device itself needs the right
// to its loopback, however it is written.
func (h *Host) demandDestination(host string, addr netip.Addr, port uint16) error {
	if addr.IsLoopback() || addr.IsUnspecified() {
		return h.demand(rightLoopback)
	}
	if err := h.demand(rightNetwork); err != nil {
		return err
	}
	if !h.config.Policy.AllowsDestination(host, addr, port) {
		return failf(metav1.StatusReasonForbidden, "the device's own policy forbids connections to %s port %d (it is not in policy.hostPortForward.allowedDestinations of its arhat.yaml)", destinationName(host, addr), port)
	}
	return nil
}

func destinationName(host string, addr netip.Addr) string {
	if host == addr.String() {
		return host
	}
	return fmt.Sprintf("%s (%s)", host, addr)
}

func dialAddr(ctx context.Context, addr netip.Addr, port uint16) (*net.TCPConn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// splice carries bytes both ways until both directions have ended, one has failed, or ctx ends.
func splice(ctx context.Context, link *stream.Conn, conn runtime.Conn) error {
	stop := context.AfterFunc(ctx, func() {
		_ = link.Close()
		_ = conn.Close()
	})
	defer stop()
	ended := make(chan error, 1)
	link.Forward(conn, func(err error) {
		if err == nil {
			// A peer that is gone needs no end of data.
			_ = conn.CloseWrite()
		} else {
			_ = conn.Close()
		}
		ended <- err
	})
	_, up := io.Copy(link, conn) // here: one goroutine less
	if up == nil {
		_ = link.CloseWrite()
	} else {
		_ = link.Close() // nobody to send to: stop reading too
	}
	down := <-ended
	_ = conn.Close()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case up != nil:
		return failf(metav1.StatusReasonInternalError, "the connection on the device broke: %v", up)
	case down != nil && !errors.Is(down, io.ErrClosedPipe):
		return failf(metav1.StatusReasonInternalError, "the connection on the device broke: %v", down)
	}
	return nil
}

package gateway

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/tap"
	"k8s.io/klog/v2"
	"k8s.io/utils/lru"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
)

const (
	// streamWindow is how much of a stream may be under way, and must be held for a reader that
	// stalls: enough for 100 MB/s over 5 ms, little enough for many streams.
	streamWindow = 512 << 10
	// connWindow is the same for all streams of a device together, as far as gRPC goes by it.
	connWindow = 2 << 20
	// readBuffer and writeBuffer of a link, in bytes. There is none to read, because TLS has one of its
	// own; the latter is there only while something is written.
	readBuffer  = 0
	writeBuffer = 16 << 10
	// headerTable is how many bytes of headers are kept for each link, to be named by index later: it
	// carries few calls.
	headerTable = 0
	// maxHeaders limits the headers of a call, in bytes.
	maxHeaders = 8 << 10
	// drainTime is how long devices have at the end to take note and leave. Then they are cut off.
	drainTime = 5 * time.Second
)

// Gateway serves the device link. All methods may be called concurrently.
type Gateway struct {
	edgeapi.UnimplementedEdgeServer

	config    Config
	serving   *servingCertificate
	failures  *failureLimiter
	renewals  *keyLimiter
	refusals  *keyLimiter // has identities told of that are refused
	takeovers *takeovers
	anonymous atomic.Int64
	strange   rate.Sometimes // has certificates logged that are not accepted
	clock     tokenClock

	registry  registry
	pending   pendingStreams
	newcomers newcomers
	pinger    *pinger
	deleted   *lru.Cache // of the UIDs of EdgeDevices

	server  *grpc.Server
	started atomic.Bool
	running chan struct{}  // closed by Run
	logger  klog.Logger    // set by Run
	work    sync.WaitGroup // goroutines of sessions that gRPC does not wait for
}

var _ Sessions = &Gateway{}

// New returns a gateway that serves once Run is called.
func New(c Config) (*Gateway, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	registerMetrics()
	g := &Gateway{
		config:    c,
		serving:   &servingCertificate{authority: c.Authority, names: c.Names},
		failures:  newFailureLimiter(),
		renewals:  newKeyLimiter(keyRenewal, renewalBurst),
		refusals:  newKeyLimiter(refusalInterval, 1),
		takeovers: newTakeovers(),
		strange:   rate.Sometimes{First: 20, Interval: time.Second},
		running:   make(chan struct{}),
	}
	g.registry.init()
	g.pending.init()
	g.pinger = newPinger()
	g.deleted = lru.New(rememberedDeletions)
	g.server = g.newServer()
	edgeapi.RegisterEdgeServer(g.server, g)
	if _, err := g.serving.get(time.Now()); err != nil {
		return nil, fmt.Errorf("issuing the gateway's certificate: %w", err)
	}
	return g, nil
}

// Run serves devices until ctx ends, then ends all sessions, which are told why, and returns when
// everything is down. It may be called once. The directory must be in sync before.
func (g *Gateway) Run(ctx context.Context) error {
	if g.started.Swap(true) {
		return errors.New("gateway: Run was called before")
	}
	g.logger = klog.FromContext(ctx) // named by who runs the gateway
	close(g.running)

	pingCtx, stopPings := context.WithCancel(ctx)
	defer stopPings()
	var pings sync.WaitGroup
	pings.Go(func() { g.pinger.run(pingCtx) })

	g.logger.Info("Serving devices", "address", g.config.Listener.Addr().String())
	front := newFront(g.config.Listener, g.certificate, firstWord, g.logger)
	served := make(chan error, 1)
	go func() { served <- front.run() }()
	var serving sync.WaitGroup
	for _, l := range []net.Listener{front.devices, front.webSockets} {
		serving.Go(func() { _ = g.server.Serve(&deviceListener{Listener: l, gateway: g}) })
	}

	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
		if err == nil {
			err = errors.New("the listener was closed")
		}
		err = fmt.Errorf("serving devices on %s: %w", g.config.Listener.Addr(), err)
		served <- nil
	}
	g.logger.Info("Ending the sessions of devices", "sessions", g.registry.count())
	front.close()
	g.shutdown()
	serving.Wait()
	if stopped := <-served; stopped != nil {
		g.logger.V(2).Info("No longer serving devices", "reason", stopped)
	}
	stopPings()
	pings.Wait()
	g.work.Wait()
	return err
}

// shutdown tells every device that the replica stops, gives them a moment, and closes what is left.
func (g *Gateway) shutdown() {
	for _, s := range g.registry.drain() {
		s.Close(g.stopping())
	}
	g.newcomers.cutOff()
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.server.GracefulStop()
	}()
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		g.logger.Info("Cutting off devices that did not leave in time", "limit", drainTime)
		g.server.Stop()
		<-done
	}
}

func (g *Gateway) stopping() error { return fmt.Errorf("replica %s %w", g.config.Replica, ErrStopping) }

func (g *Gateway) newServer() *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(newServerCredentials(g)),
		grpc.ConnectionTimeout(connectTime),
		grpc.MaxRecvMsgSize(edgeapi.MaxDeviceMessage),
		grpc.MaxSendMsgSize(edgeapi.MaxServerMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.HeaderTableSize(headerTable),
		// Connect, Renew, and streams that end while others begin.
		grpc.MaxConcurrentStreams(uint32(g.config.MaxStreams)+16),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(readBuffer),
		grpc.WriteBufferSize(writeBuffer),
		grpc.InTapHandle(g.tap),
		grpc.StatsHandler(linkStats{newcomers: &g.newcomers}),
		grpc.WaitForHandlers(true),
	)
}

// tap refuses calls early, before anything is read of them.
func (g *Gateway) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	p, err := peerFrom(ctx)
	if err != nil {
		return nil, err
	}
	// How much is read of those who enrol is limited by deviceConn.
	if info.FullMethodName != edgeapi.Edge_Enroll_FullMethodName {
		if _, _, err := deviceFrom(ctx); err != nil {
			return nil, err
		}
	}
	if info.FullMethodName == edgeapi.Edge_Stream_FullMethodName {
		ctx = withAbort(ctx)
	}
	return p.conn.traffic.Context(ctx, edgeapi.TrafficKind_TRAFFIC_CONTROL), nil
}

// IssueToken makes an enrolment token for a device. It is valid once, for this EdgeDevice (by its UID)
// only, until it expires or the device enrols with another one. Nothing is kept of it.
func (g *Gateway) IssueToken(ctx context.Context, device Device, ttl time.Duration) (token string, expires time.Time, err error) {
	if err := device.Validate(); err != nil {
		return "", time.Time{}, err
	}
	if ttl < time.Second || ttl > maxTokenLife {
		return "", time.Time{}, fmt.Errorf("a token cannot be valid for %s; use 1s to %s", ttl, maxTokenLife)
	}
	issued, err := g.issueTime(device)
	if err != nil {
		return "", time.Time{}, err
	}
	ttl = ttl.Truncate(time.Second)
	t := identity.NewToken(g.config.Authority.tokens.mint(device, issued, ttl), g.config.Authority.hash)
	t.Namespace, t.Name = device.Namespace, device.Name
	expires = issued.Add(ttl)
	klog.FromContext(ctx).V(2).Info("Issued an enrolment token", "edgeDevice", klog.KRef(device.Namespace, device.Name), "token", t.ID, "expires", expires)
	return t.Text(), expires, nil
}

// issueTime is now, or later than the last enrolment if the clock of the replica that recorded it is ahead.
func (g *Gateway) issueTime(device Device) (time.Time, error) {
	now := g.clock.now()
	var last time.Time // zero if the cache does not know it, which then cannot be long ago
	if ed, err := g.config.Devices.Get(device.Namespace, device.Name); err == nil && ed.UID == device.UID {
		if c := ed.Status.Certificate; c != nil && c.EnrolledAt != nil {
			last = c.EnrolledAt.Time
		}
	}
	switch {
	case now.After(last):
		return now, nil
	case last.After(now.Add(clockSkew)):
		return now, fmt.Errorf("EdgeDevice %s enrolled at %s, which is in the future: check the clocks of all replicas. "+
			"Tokens can be issued for it again by then, or when it was deleted and created anew", device, last.UTC().Format(time.RFC3339))
	}
	return last.Add(time.Microsecond), nil
}

// Session implements Sessions.
func (g *Gateway) Session(namespace, name string) (Session, bool) {
	if s := g.registry.get(namespace, name); s != nil {
		return s, true
	}
	return nil, false
}

// Disconnect ends the live link of a device, if this replica has it and its UID is the same. The device
// is told the reason.
func (g *Gateway) Disconnect(device Device, reason error) {
	if s := g.registry.get(device.Namespace, device.Name); s != nil && s.Device().UID == device.UID {
		s.Close(reason)
	}
}

// Name tells this gateway from all others, whatever the cluster: replicas of one name have other device CAs there.
func (g *Gateway) Name() string {
	return hex.EncodeToString(g.config.Authority.hash[:]) + "/" + g.config.Replica
}

// DeviceChanged is to be called, by an informer's event handler, whenever an EdgeDevice was added,
// updated or deleted. It looks the EdgeDevice up in the directory, cuts the live link of one that was
// deleted, replaced or re-keyed, and tells a connected device what changed for it. It is quick.
func (g *Gateway) DeviceChanged(namespace, name string) {
	if s := g.registry.get(namespace, name); s != nil {
		s.refresh()
	}
}

// DeviceDeleted is to be called when an EdgeDevice is gone: its device is cut off, and not given the time
// that one may need whose EdgeDevice has just been created.
func (g *Gateway) DeviceDeleted(device Device) {
	g.deleted.Add(device.UID, nil)
	g.DeviceChanged(device.Namespace, device.Name)
}

// remoteAddress is nil-safe for transports without addresses.
func remoteAddress(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

package uplink

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/pkg/edge/stream"
)

// Handler is told what comes over the link. Hello, Connected, Message and Disconnected are called one
// after the other; Disconnected follows every Connected.
type Handler interface {
	// Hello is what the device says about itself, asked for at each connect.
	Hello(ctx context.Context) *edgeapi.Hello
	// Connected says that the link is up. The context and send are valid until Disconnected.
	Connected(ctx context.Context, welcome *edgeapi.Welcome, send Sender)
	// Message is called for each message but the first Welcome, OpenStream, Ping and Renewal, in order.
	// A further Welcome replaces the one before. Nothing more is read until Message returns: it must
	// be quick.
	Message(msg *edgeapi.ServerMessage)
	// Disconnected says that the link is down, and why. Its streams have ended, or do not end in time.
	Disconnected(err error)
	// Stream serves one session, in a goroutine of its own, and must end it with s.Finish. The context
	// ends with the stream.
	Stream(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream)
	// Usage is what the whole device uses at the moment, 0 if not known. It must be quick.
	Usage() (cpuNanoCores, memoryBytes uint64)
}

// Sender sends messages to the server. It may be used concurrently.
type Sender interface {
	// Send blocks while the link is slower than the caller. It returns an error when ctx ends (the
	// message may have been sent then) or the link is down, and ErrMessage if the message is at fault.
	Send(ctx context.Context, msg *edgeapi.DeviceMessage) error
}

// ErrMessage says that a message cannot be sent, over no link: it is of no use to try again.
var ErrMessage = errors.New("the message cannot be sent")

// Config is what a Client needs.
type Config struct {
	// Server is the address that the dialer is given, for TCP host:port. Its name is looked up at each
	// attempt.
	Server string
	// StateDir is where Join put the identity of the device.
	StateDir string
	// Handler is told what comes over the link.
	Handler Handler
	// Dialer is the transport. Default link.TCP{}. It may be a Chooser. If it is an io.Closer, Run closes it at the
	// end.
	Dialer link.Dialer
	// Joined is the first link, if the device has just enrolled; it takes the place of Server and Dialer.
	Joined *Joined
	// ProbeInterval is how often a Chooser's better links are tried. Default 10 minutes.
	ProbeInterval time.Duration
	// MaxStreams is how many streams may be open at a time. Default 256.
	MaxStreams int
	// StreamPatience is how long the streams of a link that is down may take to end before the device connects
	// again without waiting for them. Default 10 s.
	StreamPatience time.Duration
	// MaxBackoff is the longest pause between attempts to connect. Default 60 s. A device that the
	// server refuses waits up to ten times as long.
	MaxBackoff time.Duration
}

const (
	// callTime is how long Enroll and Renew may take.
	callTime = 30 * time.Second
	// firstBackoff is the pause after the first failure.
	firstBackoff = 500 * time.Millisecond
	// stableLink is how long a link must have held for the pause to begin anew.
	stableLink = time.Minute
	// refusedFactor stretches the pause of a device that the server does not want.
	refusedFactor = 10
)

// Client keeps the device connected.
type Client struct {
	config Config
	id     atomic.Pointer[deviceIdentity]
	ledger *traffic.Ledger
	// expired is set when the server has said that the certificate is: the device's own clock may be slow. unkept
	// is set while the certificate in use is not on the disk. Both are for the goroutine that has the link.
	expired, unkept bool
	// lingering are streams of former links that have not ended.
	lingering sync.WaitGroup
}

// New reads the identity of the device. The error is ErrNotEnrolled if there is none.
func New(c Config) (*Client, error) {
	if c.Joined != nil {
		c.Server, c.Dialer = c.Joined.server, c.Joined.dialer
	}
	switch {
	case c.Server == "":
		return nil, errors.New("no address of the server is given")
	case c.Handler == nil:
		return nil, errors.New("uplink: no handler")
	}
	if c.Dialer == nil {
		c.Dialer = link.TCP{}
	}
	if c.MaxStreams <= 0 {
		c.MaxStreams = 256
	}
	if c.ProbeInterval <= 0 {
		c.ProbeInterval = 10 * time.Minute
	}
	if c.StreamPatience <= 0 {
		c.StreamPatience = 10 * time.Second
	}
	if c.MaxBackoff <= 0 {
		c.MaxBackoff = time.Minute
	}
	client := &Client{config: c, ledger: &traffic.Ledger{}}
	if c.Joined != nil {
		client.ledger = c.Joined.ledger
		client.id.Store(c.Joined.id)
		return client, nil
	}
	id, err := loadIdentity(c.StateDir)
	if err != nil {
		return nil, err
	}
	client.id.Store(id)
	return client, nil
}

// LoadDevice reads who the device with this state directory is. The error is ErrNotEnrolled if nobody yet.
func LoadDevice(stateDir string) (identity.Device, error) {
	id, err := loadIdentity(stateDir)
	if err != nil {
		return identity.Device{}, err
	}
	return id.device, nil
}

// Device is who this device is.
func (c *Client) Device() identity.Device { return c.id.Load().device }

// Run connects, and connects again, until ctx ends. It returns when all of its goroutines, streams
// included, have ended; the error is then nil.
func (c *Client) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("uplink")
	ctx = klog.NewContext(ctx, logger)
	if closer, ok := c.config.Dialer.(io.Closer); ok {
		defer func() { _ = closer.Close() }() // the link is down already
	}
	defer c.lingering.Wait()
	retry := backoff{max: c.config.MaxBackoff}
	for {
		start := time.Now()
		connected, err := c.once(ctx)
		if ctx.Err() != nil {
			return nil // the link ended because it was to end
		}
		if connected && time.Since(start) >= stableLink {
			retry.reset()
		}
		if status.Code(err) == codes.Unauthenticated && !c.expired {
			c.expired = true
			retry.reset() // for once, there is something to do about it
		}
		kind := refusalOf(err)
		pause := retry.next(kind)
		if chooser, ok := c.config.Dialer.(Chooser); ok && kind == wrongLink {
			chooser.Disproven()
		}
		if kind.isForDevice() {
			logger.Error(err, "The server refuses this device", "server", c.server(), "edgeDevice", c.Device().String(), "retryIn", pause)
		} else {
			logger.Info("The link is down", "server", c.server(), "reason", err.Error(), "retryIn", pause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// server is the address of the link, for the log: Config.Server may list several.
func (c *Client) server() string { return dialled(c.config.Dialer, c.config.Server) }

// once connects and serves the link until it is down. The error is never nil.
func (c *Client) once(ctx context.Context) (connected bool, err error) {
	if conn := c.config.Joined.take(); conn != nil {
		connected, err = c.serve(ctx, conn)
		conn.close()
		if connected || ctx.Err() != nil {
			return connected, err
		}
		klog.FromContext(ctx).V(2).Info("The link over which the device has enrolled is of no use any more", "reason", err.Error())
	}
	if err := c.renewExpired(ctx); err != nil {
		return false, err
	}
	conn, err := dial(ctx, c.config.Dialer, c.config.Server, c.id.Load().tls(), c.ledger)
	if err != nil {
		return false, err
	}
	defer conn.close()
	connected, err = c.serve(ctx, conn)
	return connected, conn.tls.explain(err)
}

// refusal is how little the server wants this device.
type refusal int

const (
	notRefused refusal = iota
	// refused says that trying again soon is of no use, because a person has to do something.
	refused
	// unwanted says that it is of no use for this identity: the EdgeDevice was deleted, usually.
	unwanted
	// wrongLink says that it is of no use by this link.
	wrongLink
)

// isForDevice says whether it is the device that the server does not want, whichever link it takes.
func (r refusal) isForDevice() bool { return r == refused || r == unwanted }

func refusalOf(err error) refusal {
	switch status.Code(err) {
	case codes.PermissionDenied:
		return unwanted
	case codes.Unauthenticated, codes.Aborted:
		return refused
	case codes.NotFound:
		return wrongLink
	default:
		return notRefused
	}
}

// backoff is an exponential pause with jitter.
type backoff struct {
	max  time.Duration
	last time.Duration
}

func (b *backoff) reset() { b.last = 0 }

// next returns the pause before the next attempt, from half of its nominal value up. Thousands of devices may
// be unwanted at once, and each attempt costs the server a handshake: they begin with the longest pause of
// others.
func (b *backoff) next(why refusal) time.Duration {
	limit, first := b.max, firstBackoff
	switch why {
	case unwanted:
		limit, first = limit*refusedFactor, b.max
	case refused:
		limit, first = limit*refusedFactor, firstBackoff*refusedFactor
	}
	b.last = min(max(b.last*2, first), limit)
	return b.last/2 + rand.N(b.last/2+1)
}

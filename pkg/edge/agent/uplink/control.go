package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/pkg/edge/note"
	"arhat.dev/aranya/pkg/edge/stream"
)

const (
	// welcomeTime is how long the server may take to answer Hello.
	welcomeTime = 60 * time.Second
	// patience is added to twice the heartbeat interval, see Welcome.
	patience = 10 * time.Second
	// leaveTime is how long the server may take to note that the device leaves.
	leaveTime = 2 * time.Second

	minHeartbeat = time.Second
	maxHeartbeat = 24 * time.Hour
)

// control is the control stream of one link: over one connection after the other if the link is parked in
// between.
type control struct {
	client   *Client
	ctx      context.Context // ends with the link
	cancel   context.CancelCauseFunc
	outgoing chan outgoing
	pongs    chan uint64   // ids of pings to answer; the latest counts
	parks    chan uint64   // ids by which the server wants to park the link
	renewal  chan struct{} // the server asks for one
	beat     chan time.Duration
	wanted   chan struct{}  // a parked link is to be resumed
	report   traffic.Report // for who answers pings
	renewed  time.Time      // for who renews

	mu sync.Mutex
	// on is the connection in use, nil while the link is parked.
	on       *attachment
	attached chan struct{} // closed when there is one, and made anew when the link is parked
	users    int           // those that need the connection, which keeps the link from being parked
	raw      *link.Conn    // the last one: a parked link counts by it
}

type outgoing struct {
	msg  *edgeapi.DeviceMessage
	done chan error // holds one
}

// serve says Hello and serves the link until it is down or ctx ends.
func (c *Client) serve(ctx context.Context, conn *connection) (connected bool, err error) {
	linkCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	defer stop()

	hello := c.config.Handler.Hello(linkCtx)
	hello.Features = append(hello.Features, stream.FeatureClose)
	if conn.keys != nil {
		hello.Features = append(hello.Features, note.Feature)
	}
	a, welcome, err := c.attach(linkCtx, conn, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{Hello: hello}})
	if err != nil {
		return false, err
	}
	klog.FromContext(ctx).Info("Connected", "server", c.server(), "method", conn.raw.Method(), "replica", welcome.GetReplica(), "edgeDevice", c.Device().String())
	t := &control{
		client: c, ctx: linkCtx, cancel: cancel,
		outgoing: make(chan outgoing), pongs: make(chan uint64, 1), parks: make(chan uint64, 1), renewal: make(chan struct{}, 1),
		beat: make(chan time.Duration, 1), wanted: make(chan struct{}, 1), attached: make(chan struct{}),
	}
	return true, t.run(welcome, a)
}

// greet exchanges Hello, or what takes its place, and Welcome.
func greet(ctx context.Context, end func(), call grpc.BidiStreamingClient[edgeapi.DeviceMessage, edgeapi.ServerMessage], hello *edgeapi.DeviceMessage) (*edgeapi.Welcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, welcomeTime, fmt.Errorf("the server did not answer Hello within %s", welcomeTime))
	defer cancel()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	err := call.Send(hello)
	if err != nil && !errors.Is(err, io.EOF) { // on EOF, Recv tells why
		return nil, plain(err)
	}
	msg, err := call.Recv()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, plain(err)
	}
	welcome := msg.GetWelcome()
	if welcome == nil {
		return nil, errors.New("protocol violation: the server's first message is not Welcome")
	}
	return welcome, nil
}

// run serves the link until it is down. It returns when its goroutines have ended.
func (t *control) run(welcome *edgeapi.Welcome, a *attachment) error {
	handler := t.client.config.Handler
	t.begin(a)
	var others sync.WaitGroup
	others.Go(func() { t.watch(heartbeat(welcome)) })
	if chooser, ok := t.client.config.Dialer.(Chooser); ok {
		chooser.Proven()
		others.Go(func() { t.probe(chooser) })
	}
	connected := func() { handler.Connected(t.ctx, welcome, t) }
	for a != nil {
		if parked := t.use(a, connected); parked {
			a = t.rest(a)
		} else {
			a = nil
		}
		connected = func() {}
	}
	others.Wait()
	err := context.Cause(t.ctx)
	handler.Disconnected(err)
	return err
}

func endError(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the server ended the link")
	}
	return plain(err)
}

func (t *control) handle(a *attachment, msg *edgeapi.ServerMessage) {
	switch m := msg.GetMessage().(type) {
	case *edgeapi.ServerMessage_Ping:
		latest(t.pongs, m.Ping.GetId())
	case *edgeapi.ServerMessage_Renewal:
		latest(t.renewal, struct{}{})
	case *edgeapi.ServerMessage_OpenStream:
		t.open(a, m.OpenStream)
	case *edgeapi.ServerMessage_CloseStream:
		a.streams.end(m.CloseStream.GetId())
	case *edgeapi.ServerMessage_Park:
		latest(t.parks, m.Park.GetId())
	case nil:
		// A kind of message from a later version. It would be announced as a feature first.
	case *edgeapi.ServerMessage_Welcome:
		t.welcome(msg)
	default:
		t.client.config.Handler.Message(msg)
	}
}

// welcome takes a further Welcome.
func (t *control) welcome(msg *edgeapi.ServerMessage) {
	latest(t.beat, heartbeat(msg.GetWelcome()))
	t.client.config.Handler.Message(msg)
}

// latest puts a value into a channel that holds one, over what is in it. For one sender.
func latest[T any](ch chan T, value T) {
	select {
	case <-ch:
	default:
	}
	ch <- value
}

func heartbeat(w *edgeapi.Welcome) time.Duration {
	ms := min(max(w.GetHeartbeatIntervalMs(), minHeartbeat.Milliseconds()), maxHeartbeat.Milliseconds())
	return time.Duration(ms) * time.Millisecond
}

// Send implements Sender.
func (t *control) Send(ctx context.Context, msg *edgeapi.DeviceMessage) error {
	if size := proto.Size(msg); size > edgeapi.MaxDeviceMessage { // the server would end the link over it
		return fmt.Errorf("%w: %d bytes are more than the server accepts (%d)", ErrMessage, size, edgeapi.MaxDeviceMessage)
	}
	out := outgoing{msg: msg, done: make(chan error, 1)}
	select {
	case t.outgoing <- out:
	case <-ctx.Done():
		return ctx.Err()
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
	select {
	case err := <-out.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errLinkDown = errors.New("the link is down")

// watch gives a silent link up and renews the certificate in time.
func (t *control) watch(interval time.Duration) {
	silence := time.NewTimer(2*interval + patience)
	defer silence.Stop()
	renewal := time.NewTimer(t.client.nextRenewal())
	defer renewal.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case interval = <-t.beat:
			silence.Reset(2*interval + patience)
		case <-silence.C:
			allowed := 2*interval + patience
			silent := time.Since(t.lastRead())
			if silent >= allowed {
				t.cancel(fmt.Errorf("nothing was heard of the server for %s", silent.Round(time.Second)))
				return
			}
			silence.Reset(allowed - silent)
		case <-t.renewal:
			// Perhaps of a certificate that is replaced already: whoever connects late in its life is asked at once.
			if time.Since(t.renewed) > renewRetry {
				renewal.Reset(t.renewNow())
			}
		case <-renewal.C:
			renewal.Reset(t.renewDue())
		}
	}
}

// renewDue does what nextRenewal is about, and returns when to do it next.
func (t *control) renewDue() time.Duration {
	if t.client.unkept && time.Now().Before(t.client.id.Load().renewFrom()) {
		t.client.keep(t.ctx)
		return t.client.nextRenewal()
	}
	return t.renewNow()
}

// renewNow renews the certificate and returns when to do it next.
func (t *control) renewNow() time.Duration {
	conn, release, err := t.awake()
	if err == nil {
		err = t.client.renew(t.ctx, conn)
		release()
	}
	if err != nil {
		klog.FromContext(t.ctx).Error(err, "Renewing the device certificate failed", "retryIn", renewRetry)
		return renewRetry
	}
	t.renewed = time.Now()
	return max(t.client.nextRenewal(), minHeartbeat)
}

func (t *control) lastRead() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.raw.LastRead()
}

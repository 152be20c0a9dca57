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
	"arhat.dev/aranya/pkg/edge/link/traffic"
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

// control is the control stream of one link.
type control struct {
	client   *Client
	conn     *connection
	call     grpc.BidiStreamingClient[edgeapi.DeviceMessage, edgeapi.ServerMessage]
	ctx      context.Context // ends with the link
	cancel   context.CancelCauseFunc
	outgoing chan outgoing
	pongs    chan uint64   // ids of pings to answer; the latest counts
	renewal  chan struct{} // the server asks for one
	beat     chan time.Duration
	streams  *streams
	report   traffic.Report // for send
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
	callCtx, endCall := context.WithCancel(context.WithoutCancel(ctx))
	defer endCall()
	call, err := edgeapi.NewEdgeClient(conn).Connect(conn.traffic.Context(callCtx, edgeapi.TrafficKind_TRAFFIC_CONTROL), grpc.MaxCallRecvMsgSize(maxServerMessage))
	if err != nil {
		return false, plain(err)
	}
	welcome, err := greet(linkCtx, endCall, call, hello)
	if err != nil {
		return false, err
	}
	klog.FromContext(ctx).Info("Connected", "server", c.config.Server, "method", conn.raw.Method(), "replica", welcome.GetReplica(), "edgeDevice", c.Device().String())
	t := &control{
		client: c, conn: conn, call: call, ctx: linkCtx, cancel: cancel,
		outgoing: make(chan outgoing), pongs: make(chan uint64, 1), renewal: make(chan struct{}, 1),
		beat: make(chan time.Duration, 1), streams: newStreams(c.config.Handler, conn, &conn.traffic.Counters, c.config.MaxStreams),
	}
	return true, t.run(welcome, endCall)
}

// greet exchanges Hello and Welcome.
func greet(ctx context.Context, end func(), call grpc.BidiStreamingClient[edgeapi.DeviceMessage, edgeapi.ServerMessage], hello *edgeapi.Hello) (*edgeapi.Welcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, welcomeTime, fmt.Errorf("the server did not answer Hello within %s", welcomeTime))
	defer cancel()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	err := call.Send(&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{Hello: hello}})
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
func (t *control) run(welcome *edgeapi.Welcome, endCall func()) error {
	handler := t.client.config.Handler
	sent, received := make(chan struct{}), make(chan struct{})
	var others sync.WaitGroup
	go func() {
		defer close(sent)
		t.send()
	}()
	others.Go(func() { t.watch(heartbeat(welcome)) })
	if chooser, ok := t.client.config.Dialer.(Chooser); ok {
		chooser.Proven()
		others.Go(func() { t.probe(chooser) })
	}
	go func() {
		defer close(received)
		handler.Connected(t.ctx, welcome, t)
		t.receive()
	}()

	<-t.ctx.Done()
	t.leave(sent, received)
	endCall()
	t.conn.close()
	<-received
	<-sent
	others.Wait()
	t.streams.stop()
	err := context.Cause(t.ctx)
	handler.Disconnected(err)
	return err
}

// leave tells the server that the device goes, if it is the device that does, and gives it a moment to
// take note.
func (t *control) leave(sent, received <-chan struct{}) {
	t.streams.cut()
	timer := time.NewTimer(leaveTime)
	defer timer.Stop()
	select {
	case <-received:
		return
	case <-timer.C:
		return
	case <-sent: // CloseSend must not meet with Send
	}
	_ = t.call.CloseSend()
	select {
	case <-received:
	case <-timer.C:
	}
}

// receive hands out what the server says until the call is over.
func (t *control) receive() {
	for {
		msg, err := t.call.Recv()
		if err != nil {
			t.cancel(endError(err))
			return
		}
		t.handle(msg)
	}
}

func endError(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the server ended the link")
	}
	return plain(err)
}

func (t *control) handle(msg *edgeapi.ServerMessage) {
	switch m := msg.GetMessage().(type) {
	case *edgeapi.ServerMessage_Ping:
		latest(t.pongs, m.Ping.GetId())
	case *edgeapi.ServerMessage_Renewal:
		latest(t.renewal, struct{}{})
	case *edgeapi.ServerMessage_OpenStream:
		t.streams.open(t.ctx, m.OpenStream)
	case nil:
		// A kind of message from a later version. It would be announced as a feature first.
	case *edgeapi.ServerMessage_Welcome:
		latest(t.beat, heartbeat(m.Welcome))
		t.client.config.Handler.Message(msg)
	default:
		t.client.config.Handler.Message(msg)
	}
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
	if size := proto.Size(msg); size > maxDeviceMessage { // the server would end the link over it
		return fmt.Errorf("a message of %d bytes is larger than the server accepts (%d)", size, maxDeviceMessage)
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

// send is the one goroutine that sends.
func (t *control) send() {
	for {
		select {
		case id := <-t.pongs:
			cpu, memory := t.client.config.Handler.Usage()
			pong := &edgeapi.Pong{
				Id: id, CpuNanoCores: cpu, MemoryWorkingSetBytes: memory, Traffic: t.report.Changes(t.client.ledger),
			}
			if t.sendOne(&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Pong{Pong: pong}}) != nil {
				return
			}
		case out := <-t.outgoing:
			err := t.sendOne(out.msg)
			out.done <- err
			if errors.Is(err, errLinkDown) {
				return
			}
		case <-t.ctx.Done():
			return
		}
	}
}

// sendOne sends a message. An error other than errLinkDown is about this message alone.
func (t *control) sendOne(msg *edgeapi.DeviceMessage) error {
	err := t.call.Send(msg)
	if !errors.Is(err, io.EOF) {
		return plain(err)
	}
	// The call is over. receive finds out why, unless the handler keeps it.
	timer := time.NewTimer(leaveTime)
	defer timer.Stop()
	select {
	case <-t.ctx.Done():
	case <-timer.C:
		t.cancel(errLinkDown)
	}
	return errLinkDown
}

var errLinkDown = errors.New("the link is down")

// watch gives a silent link up and renews the certificate in time.
func (t *control) watch(interval time.Duration) {
	silence := time.NewTimer(2*interval + patience)
	defer silence.Stop()
	renewal := time.NewTimer(renewPlan(t.client.id.Load(), time.Now()))
	defer renewal.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case interval = <-t.beat:
			silence.Reset(2*interval + patience)
		case <-silence.C:
			allowed := 2*interval + patience
			silent := time.Since(t.conn.raw.LastRead())
			if silent >= allowed {
				t.cancel(fmt.Errorf("nothing was heard of the server for %s", silent.Round(time.Second)))
				return
			}
			silence.Reset(allowed - silent)
		case <-t.renewal:
			renewal.Reset(t.renewNow())
		case <-renewal.C:
			renewal.Reset(t.renewNow())
		}
	}
}

// renewNow renews the certificate and returns when to do it next.
func (t *control) renewNow() time.Duration {
	if err := t.client.renew(t.ctx, t.conn); err != nil {
		klog.FromContext(t.ctx).Error(err, "Renewing the device certificate failed", "retryIn", renewRetry)
		return renewRetry
	}
	return max(renewPlan(t.client.id.Load(), time.Now()), minHeartbeat)
}

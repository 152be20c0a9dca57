package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// attachment is one connection of a link.
type attachment struct {
	conn    *connection
	call    grpc.BidiStreamingClient[edgeapi.DeviceMessage, edgeapi.ServerMessage]
	end     context.CancelFunc // of the call
	streams *streams
	first   *outgoing // to be sent before all others

	// Guarded by control.mu. parked is set when the device has answered that it can be parked, deferred are
	// requests for streams that came later.
	parked   *parked
	deferred []*edgeapi.OpenStream
}

// attach opens the control stream over a connection.
func (c *Client) attach(ctx context.Context, conn *connection, hello *edgeapi.DeviceMessage) (*attachment, *edgeapi.Welcome, error) {
	callCtx, end := context.WithCancel(context.WithoutCancel(ctx))
	call, err := edgeapi.NewEdgeClient(conn).Connect(conn.traffic.Context(callCtx, edgeapi.TrafficKind_TRAFFIC_CONTROL), grpc.MaxCallRecvMsgSize(edgeapi.MaxServerMessage))
	if err != nil {
		end()
		return nil, nil, plain(err)
	}
	welcome, err := greet(ctx, end, call, hello)
	if err != nil {
		end()
		return nil, nil, err
	}
	return &attachment{
		conn: conn, call: call, end: end,
		streams: newStreams(c.config.Handler, conn, &conn.traffic.Counters, c.config.MaxStreams),
	}, welcome, nil
}

// begin makes a connection the one in use.
func (t *control) begin(a *attachment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on, t.raw = a, a.conn.raw
	close(t.attached)
	select {
	case <-t.wanted: // here it is
	default:
	}
}

// use serves a connection until the link is down or parked. It returns when the goroutines of the connection have
// ended, but does not wait for streams for ever.
func (t *control) use(a *attachment, connected func()) (parked bool) {
	sent, received := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		t.send(a)
	}()
	go func() {
		defer close(received)
		connected()
		t.receive(a)
	}()
	select {
	case <-t.ctx.Done():
		t.leave(a, sent, received)
	case <-received:
	}
	a.end()
	a.conn.close()
	<-received
	<-sent
	t.stopStreams(a)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = nil
	return a.parked != nil
}

// stopStreams waits until the streams have ended, as far as they can: a process that hangs on a disk that is gone
// cannot be killed, and must not keep the device from connecting again.
func (t *control) stopStreams(a *attachment) {
	ended := a.streams.stop()
	patience := t.client.config.StreamPatience
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		klog.FromContext(t.ctx).Error(nil, "Sessions do not end though their link is down, probably because a process cannot be killed", "sessions", a.streams.count(), "waited", patience)
		t.client.lingering.Go(func() { <-ended })
	}
}

// leave tells the server that the device goes, if it is the device that does, and gives it a moment to
// take note.
func (t *control) leave(a *attachment, sent, received <-chan struct{}) {
	a.streams.cut()
	timer := time.NewTimer(leaveTime)
	defer timer.Stop()
	select {
	case <-received:
		return
	case <-timer.C:
		return
	case <-sent: // CloseSend must not meet with Send
	}
	_ = a.call.CloseSend()
	select {
	case <-received:
	case <-timer.C:
	}
}

// receive hands out what the server says until the call is over.
func (t *control) receive(a *attachment) {
	for {
		msg, err := a.call.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) || !t.isParked(a) {
				if t.ctx.Err() == nil {
					a.conn.raw.Abandoned()
				}
				t.cancel(endError(err))
			}
			return
		}
		t.handle(a, msg)
	}
}

// send is the one goroutine that sends.
func (t *control) send(a *attachment) {
	if out := a.first; out != nil {
		err := t.sendOne(a, out.msg)
		out.done <- err
		if errors.Is(err, errLinkDown) {
			return
		}
	}
	for {
		select {
		case id := <-t.pongs:
			if t.sendOne(a, t.pong(id)) != nil {
				return
			}
		case id := <-t.parks:
			if t.answerPark(a, id) {
				return
			}
		case out := <-t.outgoing:
			err := t.sendOne(a, out.msg)
			out.done <- err
			if errors.Is(err, errLinkDown) {
				return
			}
		case <-t.ctx.Done():
			return
		}
	}
}

// pong answers a ping.
func (t *control) pong(id uint64) *edgeapi.DeviceMessage {
	cpu, memory := t.client.config.Handler.Usage()
	return &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Pong{Pong: &edgeapi.Pong{
		Id: id, CpuNanoCores: cpu, MemoryWorkingSetBytes: memory, Traffic: t.report.Changes(t.client.ledger),
	}}}
}

// sendOne sends a message. The error is errLinkDown, or ErrMessage after which gRPC ends the call.
func (t *control) sendOne(a *attachment, msg *edgeapi.DeviceMessage) error {
	err := a.call.Send(msg)
	if err == nil {
		return nil
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrMessage, plain(err))
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

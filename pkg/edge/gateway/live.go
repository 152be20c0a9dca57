package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
	"arhat.dev/aranya/pkg/edge/staticpod"
	"arhat.dev/aranya/pkg/edge/stream"
)

// session is the live link of a device of this replica.
type session struct {
	gateway *Gateway
	device  Device
	keyHash string
	conn    atomic.Pointer[deviceConn] // what is left of the last one, while the link is parked
	since   time.Time
	out     outbox
	pings   pingState
	parking parking

	hello      atomic.Pointer[edgeapi.Hello]
	nodeStatus atomic.Pointer[edgeapi.NodeStatus]
	usage      atomic.Pointer[edgeapi.Pong]
	traffic    atomic.Pointer[[]*edgeapi.LinkTraffic] // that the device has told
	roundTrip  atomic.Int64                           // nanoseconds
	streams    atomic.Int32
	notAfter   atomic.Int64 // of the certificate, Unix seconds
	renewFrom  atomic.Int64 // when to remind the device to renew, Unix seconds

	openMu    sync.Mutex // guards the streams that end with the session
	open      map[*stream.Stream]struct{}
	countMu   sync.Mutex // guards what of the traffic was added to the metric
	counted   traffic.Sums
	welcomeMu sync.Mutex // guards what the device was told of its EdgeDevice
	welcome   [sha256.Size]byte
	// welcomeVersion is the resource version that welcome follows from, empty if that is not known.
	welcomeVersion string
	closeOnce      sync.Once
	reason         error         // set before done is closed
	done           chan struct{} // the session is over
	ended          chan struct{} // the handler was told so
}

var _ Session = &session{}

// Device implements Session.
func (s *session) Device() Device { return s.device }

// Hello implements Session.
func (s *session) Hello() *edgeapi.Hello { return s.hello.Load() }

// Done implements Session.
func (s *session) Done() <-chan struct{} { return s.done }

// Send implements Session.
func (s *session) Send(msg *edgeapi.ServerMessage) error { return s.out.put(msg, false) }

// Info implements Session.
func (s *session) Info() Info {
	usage, conn := s.usage.Load(), s.conn.Load()
	info := Info{
		Method:        conn.Method(),
		Since:         s.since,
		LastSeen:      conn.LastRead(),
		RoundTrip:     time.Duration(s.roundTrip.Load()),
		BytesIn:       conn.BytesIn(),
		BytesOut:      conn.BytesOut(),
		Streams:       s.streams.Load(),
		Parked:        s.isParked(),
		RemoteAddress: remoteAddress(conn),
		Replica:       s.gateway.config.Replica,
		CPUNanoCores:  usage.GetCpuNanoCores(),
		MemoryBytes:   usage.GetMemoryWorkingSetBytes(),
		NodeStatus:    s.nodeStatus.Load(),
		Traffic:       conn.sums(),
	}
	if told := s.traffic.Load(); told != nil {
		info.DeviceTraffic = *told
	}
	return info
}

// Close implements Session. A reason that is a gRPC status is told as such; another as Unavailable, on
// which the device connects again.
func (s *session) Close(reason error) {
	s.closeOnce.Do(func() {
		if reason == nil {
			reason = errors.New("closed by the server")
		}
		s.reason = reason
		s.gateway.work.Add(1) // Run must not find that nothing is left before endParked has said what is
		defer s.gateway.work.Done()
		close(s.done)
		s.cutStreams()
		s.gateway.registry.remove(s)
		s.gateway.pinger.remove(s)
		s.out.close()
		s.endParked()
	})
}

// status is the reason as the end of the Connect call.
func (s *session) status() error {
	if errors.Is(s.reason, errDeviceLeft) {
		return nil
	}
	if st, ok := status.FromError(s.reason); ok {
		return st.Err()
	}
	return status.Error(codes.Unavailable, s.reason.Error())
}

var errDeviceLeft = errors.New("the device closed the link")

// receive tells the handler of the session, and then of what the device says until the call is over.
func (s *session) receive(recv func() (*edgeapi.DeviceMessage, error)) {
	s.gateway.config.Handler.SessionStarted(s)
	s.take(recv)
}

// take takes the next message. Each is taken by a goroutine of its own, one after the other: what a
// goroutine needs to decode and to handle a message would stay with it while it waits for the next one,
// and most links are silent most of the time.
func (s *session) take(recv func() (*edgeapi.DeviceMessage, error)) {
	msg, err := recv()
	if err != nil {
		err = s.receiveError(err)
	} else {
		err = s.handle(msg)
	}
	switch {
	case errors.Is(err, errParked): // and goes on with the next connection
	case err != nil:
		s.Close(err)
		s.over()
	default:
		s.gateway.work.Go(func() { s.take(recv) })
	}
}

// over is the end of a session, after the last message.
func (s *session) over() {
	defer close(s.ended)
	s.count()
	conn := s.conn.Load()
	s.log().Info("A device's session is over", "reason", s.reason.Error(), "bytesIn", conn.BytesIn(), "bytesOut", conn.BytesOut())
	s.gateway.config.Handler.SessionEnded(s, s.reason)
}

// broken is the reason of a session whose link failed. gRPC often says only that a context has ended.
func (s *session) broken(err error) error {
	conn := s.conn.Load()
	if failure := conn.Failure(); failure != nil {
		return fmt.Errorf("the link broke: %w", failure)
	}
	switch {
	case conn.Ended():
		return errors.New("the link broke: the connection was closed from the device's side, as when its agent is killed")
	case status.Code(err) == codes.Canceled:
		return errors.New("the link broke: the device cancelled the call that holds it, or did not keep to HTTP/2")
	}
	return fmt.Errorf("the link broke: %s", status.Convert(err).Message())
}

func (s *session) receiveError(err error) error {
	if errors.Is(err, io.EOF) {
		return errDeviceLeft
	}
	if status.Code(err) == codes.ResourceExhausted {
		return err // a message over the limit: gRPC's own words say so
	}
	return s.broken(err)
}

func (s *session) handle(msg *edgeapi.DeviceMessage) error {
	switch m := msg.GetMessage().(type) {
	case *edgeapi.DeviceMessage_Pong:
		s.pong(m.Pong, time.Now())
	case *edgeapi.DeviceMessage_Parked:
		return s.parked(m.Parked)
	case *edgeapi.DeviceMessage_Hello, *edgeapi.DeviceMessage_Resume:
		return status.Error(codes.InvalidArgument, "protocol violation: Hello was said before")
	case nil:
		// A kind of message from a later version. It would be announced as a feature first.
	case *edgeapi.DeviceMessage_NodeStatus:
		s.nodeStatus.Store(m.NodeStatus)
		s.forgetStatus()
		s.gateway.config.Handler.DeviceMessage(s, msg)
	default:
		s.gateway.config.Handler.DeviceMessage(s, msg)
	}
	return nil
}

// forgetStatus drops the node status that the device sent first, for which there is a newer one.
func (s *session) forgetStatus() {
	old := s.hello.Load()
	if old.GetNodeStatus() == nil {
		return
	}
	s.hello.Store(&edgeapi.Hello{
		AgentVersion: old.GetAgentVersion(), Features: old.GetFeatures(), Pods: old.GetPods(),
	})
}

// refresh looks at the EdgeDevice again: it ends the session if the device may not stay, and tells the
// device what changed for it.
func (s *session) refresh() {
	if err := s.welcomeAgain(); err != nil {
		s.Close(err)
	}
}

// welcomeAgain tells the device what changed for it, or returns why it may not stay.
func (s *session) welcomeAgain() error {
	s.welcomeMu.Lock() // before the look: what is told last must be what was seen last
	defer s.welcomeMu.Unlock()
	ed, no := s.gateway.judge(s.device, s.keyHash, false)
	if no != nil {
		if no.reason == refusedError { // a cache that fails is no reason to cut anybody off
			return nil
		}
		refused.WithLabelValues(no.reason).Inc()
		return no.err
	}
	if err := s.conn.Load().permits(s.device); err != nil {
		return err
	}
	if ed.ResourceVersion != "" && ed.ResourceVersion == s.welcomeVersion {
		return nil
	}
	welcome := s.gateway.welcomeFor(ed, s.conn.Load().Method())
	sum := digest(welcome)
	if sum == s.welcome {
		s.welcomeVersion = ed.ResourceVersion
		return nil
	}
	if err := s.out.put(welcomeMessage(welcome), false); err != nil {
		return nil // busy: refresh is called again at the next heartbeat
	}
	s.welcome, s.welcomeVersion = sum, ed.ResourceVersion
	s.gateway.pinger.reset(s, time.Duration(welcome.HeartbeatIntervalMs)*time.Millisecond)
	return nil
}

// digest tells one Welcome from another, without being kept whole for each device.
func digest(w *edgeapi.Welcome) [sha256.Size]byte {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(w)
	if err != nil {
		return [sha256.Size]byte{} // cannot be sent either
	}
	return sha256.Sum256(data)
}

// log is made when it is used, for events that are told at verbosity 2.
func (s *session) log() klog.Logger {
	return s.gateway.logger.V(2).WithValues(
		"edgeDevice", klog.KRef(s.device.Namespace, s.device.Name), "remote", remoteAddress(s.conn.Load()))
}

// count adds the traffic since the last time to the metric.
func (s *session) count() {
	s.countMu.Lock()
	defer s.countMu.Unlock()
	sums := s.conn.Load().sums()
	for _, kind := range traffic.Kinds() {
		now, before := sums[kind], &s.counted[kind]
		// The overhead is a difference of what is not read at one moment: it may shrink a little.
		if grown := now.Received - before.Received; grown > 0 {
			bytesTotal.WithLabelValues("in", traffic.Name(kind)).Add(float64(grown))
			before.Received = now.Received
		}
		if grown := now.Sent - before.Sent; grown > 0 {
			bytesTotal.WithLabelValues("out", traffic.Name(kind)).Add(float64(grown))
			before.Sent = now.Sent
		}
	}
}

// tell takes what the device says that it has counted.
func (s *session) tell(changes []*edgeapi.LinkTraffic) {
	var before []*edgeapi.LinkTraffic
	if told := s.traffic.Load(); told != nil {
		before = *told
	}
	merged := traffic.Merge(before, changes, link.Methods)
	s.traffic.Store(&merged)
}

// certificate takes note of the certificate in force.
func (s *session) certificate(notBefore, notAfter time.Time) {
	s.notAfter.Store(notAfter.Unix())
	s.renewFrom.Store(notBefore.Add(notAfter.Sub(notBefore) * 5 / 6).Unix())
}

// welcomeFor is what a device is told about its EdgeDevice that has come over a link of this method.
func (g *Gateway) welcomeFor(ed *v1alpha1.EdgeDevice, method string) *edgeapi.Welcome {
	w := &edgeapi.Welcome{
		Replica:             g.config.Replica,
		HeartbeatIntervalMs: heartbeatInterval(&ed.Spec.Connectivity, method).Milliseconds(),
		Namespace:           ed.Namespace,
		Name:                ed.Name,
		PodCapacity:         defaultPodCapacity,
		Features:            []string{staticpod.Feature},
		HostPolicy: &edgeapi.HostPolicy{
			AllowExec:        ptr.Deref(ed.Spec.Host.AllowExec, true),
			AllowAttach:      ptr.Deref(ed.Spec.Host.AllowAttach, true),
			AllowLog:         ptr.Deref(ed.Spec.Host.AllowLog, true),
			AllowPortForward: ptr.Deref(ed.Spec.Host.AllowPortForward, true),
		},
	}
	if !ed.Spec.Node.Disabled {
		w.NodeName = ed.Name
	}
	if ed.Spec.Pod.Capacity != nil {
		w.PodCapacity = *ed.Spec.Pod.Capacity
	}
	if dns := ed.Spec.Pod.DNS; dns != nil {
		if data, err := dns.Marshal(); err == nil {
			w.PodDns = data
		}
	}
	return w
}

// heartbeatInterval is how long a link of a method may be silent before the device is probed.
func heartbeatInterval(c *v1alpha1.Connectivity, method string) time.Duration {
	switch {
	case c.HeartbeatInterval != nil && c.HeartbeatInterval.Duration > 0:
		return c.HeartbeatInterval.Duration
	case method == link.MethodMQTT && !hasOwnWill(c):
		return v1alpha1.DefaultMQTTHeartbeatInterval
	}
	return v1alpha1.DefaultHeartbeatInterval
}

// hasOwnWill says whether a will of the user's own takes the place of the one by which devices hear from the broker
// that aranya is lost.
func hasOwnWill(c *v1alpha1.Connectivity) bool {
	return c.MQTTConfig != nil && c.MQTTConfig.ConnectPacket.Will != nil
}

// waitEnded waits until a former session is done with, so that the handler sees one after the other.
func (s *session) waitEnded(ctx context.Context) error {
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

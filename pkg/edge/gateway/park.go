package gateway

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/note"
)

const (
	// comeTimeouts is how many ping timeouts a parked device may take to answer a note, which is sent anew each time.
	comeTimeouts = 4
	// A link that rests for less than shortRest times the silence that it was parked after was not worth the
	// handshake, which takes more bytes than what is asked of a device each minute: that silence is twice as long the
	// next time, up to maxPatience times ParkAfter.
	shortRest   = 2
	maxPatience = 4
)

// errParked ends the reading from a connection, but not the session.
var errParked = errors.New("the link is parked")

// parking is how a session gives up its connection, which is most of its memory, and stays in touch with the
// device nevertheless.
type parking struct {
	mu    sync.Mutex
	keys  *note.Keys // of the connection in use, nil if it cannot be parked
	asked uint64     // id under which the device was asked to be parked, 0 if it was not
	rest  *rest      // nil unless the link is parked
	// patience is after how much silence the link is parked, if that is more than ParkAfter.
	patience time.Duration
}

// rest is a link that is parked. Its fields are guarded by parking.mu, but for link.
type rest struct {
	id    uint64
	since time.Time
	link  link.Parked
	seal  *note.Sealer
	open  *note.Opener
	woken time.Time // when the device was first asked to resume, zero if it was not
}

// say sends a note to the device of a parked link. It is called with parking.mu held.
func (s *session) say(r *rest, msg *edgeapi.ServerMessage) {
	data, err := proto.Marshal(msg)
	if err != nil {
		return // cannot be: it is a ping, or nothing
	}
	sealed := r.seal.Seal(data)
	s.conn.Load().Noted(0, len(sealed))
	r.link.Note(sealed)
}

func (s *session) isParked() bool {
	s.parking.mu.Lock()
	defer s.parking.mu.Unlock()
	return s.parking.rest != nil
}

// canPark says whether a silent link is to be parked at all.
func (s *session) canPark() bool {
	s.parking.mu.Lock()
	defer s.parking.mu.Unlock()
	return s.parking.keys != nil && s.gateway.config.ParkAfter > 0
}

// tryToPark asks the device to be parked if its link was silent for long enough, and says when to look again.
func (s *session) tryToPark(now time.Time, conn *deviceConn) time.Time {
	after, busy := s.parking.silence(s.gateway.config.ParkAfter), conn.LastRead()
	if write := conn.LastWrite(); write.After(busy) {
		busy = write
	}
	if at := busy.Add(after); at.After(now) {
		return at
	}
	if !s.askToPark() {
		return now.Add(after)
	}
	s.pings.await(now)
	return now.Add(s.gateway.config.PingTimeout)
}

// silence is after how much of it the link is parked.
func (p *parking) silence(parkAfter time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.patience, parkAfter)
}

// rested learns from how long the link was parked. It is called with mu held.
func (p *parking) rested(rest, parkAfter time.Duration) {
	before := max(p.patience, parkAfter)
	p.patience = min(2*before, maxPatience*parkAfter)
	if rest >= shortRest*before {
		p.patience = parkAfter
	}
}

// askToPark asks the device, unless there is something to do, or it was asked and did not answer yet: it would
// answer twice.
func (s *session) askToPark() bool {
	if s.streams.Load() > 0 || s.out.waiting() {
		return false
	}
	p := &s.parking
	id := p.ask()
	if id == 0 {
		return false
	}
	if s.out.put(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Park{Park: &edgeapi.Park{Id: id}}}, false) != nil {
		p.answered()
		return false
	}
	return true
}

// ask returns an id to ask the device under, 0 if it was asked, or cannot be parked.
func (p *parking) ask() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked != 0 || p.keys == nil {
		return 0
	}
	p.asked = rand.Uint64() | 1 // never 0
	return p.asked
}

// answered returns the id that the device was asked under, 0 if it was not, and lets it be asked again.
func (p *parking) answered() (id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, p.asked = p.asked, 0
	return id
}

// parked takes the answer of a device that was asked to be parked. The error is errParked if it is from now on.
func (s *session) parked(m *edgeapi.Parked) error {
	p := &s.parking
	asked := p.answered()
	switch {
	case asked == 0:
		return status.Error(codes.InvalidArgument, "protocol violation: the device was not asked to be parked")
	case m.GetBusy():
		return nil
	}
	s.out.shut() // its last message goes out before the call ends
	conn := s.conn.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-s.done:
		return s.reason
	default:
	}
	if p.keys == nil { // resumed by another transport since it was asked
		return status.Error(codes.InvalidArgument, "protocol violation: this link cannot be parked")
	}
	r := &rest{id: asked, since: time.Now()}
	r.seal, r.open = p.keys.Server()
	var err error
	if r.link, err = conn.Park(s.heard, s.lost); err != nil {
		return fmt.Errorf("the link broke: %w", err)
	}
	p.rest, p.keys = r, nil
	s.conn.Store(conn.rested()) // the connection itself is large
	s.pings.settle()
	parkedCount.Inc()
	close(conn.parked)
	if s.out.waiting() {
		s.gateway.work.Go(s.wake)
	}
	return errParked
}

// wake asks a parked device to resume: there is something to send. It may be called again.
func (s *session) wake() {
	p := &s.parking
	p.mu.Lock()
	r := p.rest
	first := r != nil && r.woken.IsZero()
	if first {
		r.woken = time.Now()
		s.say(r, &edgeapi.ServerMessage{})
	}
	p.mu.Unlock()
	if first {
		s.gateway.pinger.soon(s, time.Now().Add(s.gateway.config.PingTimeout))
	}
}

// heard takes a note of a parked device.
func (s *session) heard(n []byte) {
	s.parking.mu.Lock()
	r := s.parking.rest
	if r == nil {
		s.parking.mu.Unlock()
		return
	}
	data, err := r.open.Open(n)
	s.parking.mu.Unlock()
	var msg edgeapi.DeviceMessage
	if err == nil {
		err = proto.Unmarshal(data, &msg)
	}
	if err != nil {
		s.log().Info("Ignoring a note", "reason", err.Error())
		return
	}
	s.conn.Load().Noted(len(n), 0)
	if pong := msg.GetPong(); pong != nil {
		s.pong(pong, time.Now())
	}
}

// lost is told by the transport of a parked link.
func (s *session) lost(err error) { s.Close(fmt.Errorf("the link broke: %w", err)) }

// checkParked is check for a link that is parked.
func (s *session) checkParked(now time.Time, interval time.Duration) time.Time {
	next, err := s.sendDue(now, interval)
	if err != nil {
		s.Close(err)
	}
	return next
}

// sendDue sends a parked device the note that is due, if one is, and says when to look again. The error is that it
// has not answered for too long.
func (s *session) sendDue(now time.Time, interval time.Duration) (next time.Time, err error) {
	timeout := s.gateway.config.PingTimeout
	s.parking.mu.Lock()
	defer s.parking.mu.Unlock()
	p, r := &s.pings, s.parking.rest
	if r == nil { // resumed just now
		return now.Add(timeout), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered {
		p.waiting = false
	}
	since := p.sent
	switch {
	case !r.woken.IsZero():
		since = r.woken
	case !p.waiting:
		if due := s.conn.Load().LastRead().Add(interval); due.After(now) {
			return due, nil
		}
		s.say(r, p.ping(now))
		return now.Add(timeout), nil
	}
	if silence := now.Sub(since); silence >= comeTimeouts*timeout {
		return now.Add(time.Hour), fmt.Errorf("the device was parked and did not answer for %s", silence.Round(time.Second))
	}
	if r.woken.IsZero() {
		s.say(r, &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Ping{Ping: &edgeapi.Ping{Id: p.id}}})
	} else {
		s.say(r, &edgeapi.ServerMessage{})
	}
	return now.Add(timeout), nil
}

// resume goes on with a session over a new connection.
func (g *Gateway) resume(send func(*edgeapi.ServerMessage) error, info *peerInfo, c *credential, m *edgeapi.Resume, welcome *edgeapi.Welcome) (*session, error) {
	s := g.registry.get(c.device.Namespace, c.device.Name)
	if s == nil || s.device != c.device || s.keyHash != c.keyHash || !s.resume(info, m.GetId()) {
		return nil, status.Error(codes.FailedPrecondition, "the session is not parked here (any more); say Hello")
	}
	s.certificate(c.notBefore, c.notAfter)
	if err := send(welcomeMessage(welcome)); err != nil {
		s.Close(s.broken(err)) // who reads from the connection notices
	}
	info.conn.hold()
	s.out.open(send)
	g.pinger.soon(s, time.Now().Add(g.config.ParkAfter))
	return s, nil
}

// resume gives a session that is parked under this id another connection.
func (s *session) resume(info *peerInfo, id uint64) bool {
	p := &s.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rest
	if r == nil || r.id != id {
		return false
	}
	r.link.Close()
	p.rested(time.Since(r.since), s.gateway.config.ParkAfter)
	info.conn.inherit(s.conn.Load())
	s.conn.Store(info.conn)
	p.rest, p.keys = nil, info.keys
	parkedCount.Dec()
	return true
}

// endParked is the end of a session that is parked, if it is: nobody reads from a connection to find out. The
// device is told to come and hear why, unless nobody is there to tell it.
func (s *session) endParked() {
	s.parking.mu.Lock()
	r := s.parking.rest
	s.parking.rest = nil
	if r != nil && !errors.Is(s.reason, ErrStopping) {
		s.say(r, &edgeapi.ServerMessage{})
	}
	s.parking.mu.Unlock()
	if r == nil {
		return
	}
	parkedCount.Dec()
	r.link.Close()
	s.gateway.work.Go(s.over)
}

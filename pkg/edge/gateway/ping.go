package gateway

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	// firstPing comes within this time after the connect, to measure the round trip. With many devices, which may be
	// connecting all at once, it comes within a time for each of them, up to a limit.
	firstPing     = 500 * time.Millisecond
	firstPingEach = 10 * time.Millisecond
	maxFirstPing  = time.Minute
	// usageIntervals is how many heartbeat intervals may pass without a ping on a busy link: a Pong
	// also carries the device's usage.
	usageIntervals = 4
	// silentTimeouts is how many ping timeouts a device may be silent while the network still takes
	// bytes for it, because a ping may be queued behind a large message on a slow link.
	silentTimeouts = 6
	// pingStep is what the moments of pings are rounded to: with thousands of links, what is sent together
	// wakes the process up once.
	pingStep = 100 * time.Millisecond
	// renewalInterval is how often a device is reminded to renew its certificate.
	renewalInterval = 6 * time.Hour
)

// pingState is what the pinger knows of a session.
type pingState struct {
	// Guarded by pinger.mu.
	interval time.Duration
	next     time.Time
	index    int // in the heap, -1 if not there

	mu       sync.Mutex // guards the rest; taken after parking.mu, never before
	id       uint64
	sent     time.Time // of ping id, or of what was asked after it
	waiting  bool      // for a sign of life since sent
	asked    time.Time // for a stream, the first time that the device was since it was heard of
	answered bool      // ping id was, or nobody waits for it any more
	reminded time.Time
}

// pinger probes all sessions from one goroutine, each when its link has been silent for long enough.
type pinger struct {
	start time.Time // what steps are counted from

	mu   sync.Mutex
	due  pingHeap
	wake chan struct{}
}

func newPinger() *pinger { return &pinger{start: time.Now(), wake: make(chan struct{}, 1)} }

// step is the end of the step that a moment lies in.
func (p *pinger) step(at time.Time) time.Time {
	if rest := at.Sub(p.start) % pingStep; rest > 0 {
		return at.Add(pingStep - rest)
	}
	return at
}

func (p *pinger) add(s *session, interval time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-s.done: // and removed already
		return
	default:
	}
	if s.pings.interval == 0 { // else it was changed meanwhile
		s.pings.interval = interval
	}
	within := max(firstPing, min(time.Duration(len(p.due))*firstPingEach, maxFirstPing))
	s.pings.next = time.Now().Add(rand.N(within))
	heap.Push(&p.due, s)
	p.poke()
}

// reset sets another interval.
func (p *pinger) reset(s *session, interval time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.pings.interval = interval
	p.at(s, time.Now())
	p.poke()
}

func (p *pinger) remove(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.pings.index >= 0 && s.pings.index < len(p.due) && p.due[s.pings.index] == s {
		heap.Remove(&p.due, s.pings.index)
	}
}

func (p *pinger) at(s *session, next time.Time) {
	if s.pings.index >= 0 && s.pings.index < len(p.due) && p.due[s.pings.index] == s {
		s.pings.next = p.step(next)
		heap.Fix(&p.due, s.pings.index)
	}
}

func (p *pinger) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run checks sessions when they are due until ctx ends.
func (p *pinger) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s, wait := p.first(time.Now())
		if s != nil {
			p.mu.Lock()
			interval := s.pings.interval
			p.mu.Unlock()
			next := s.check(time.Now(), interval)
			p.mu.Lock()
			if s.pings.interval == interval { // else reset has set the time
				p.at(s, earlier(next, s.pings.next)) // soon may have set it, too
			}
			p.mu.Unlock()
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// first returns the session that is due, or how long to wait. A session stays in the heap while it is
// checked, put off so that it is not found again.
func (p *pinger) first(now time.Time) (*session, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.due) == 0 {
		return nil, time.Hour
	}
	s := p.due[0]
	if wait := s.pings.next.Sub(now); wait > 0 {
		return nil, wait
	}
	s.pings.next = now.Add(time.Hour)
	heap.Fix(&p.due, 0)
	return s, 0
}

// soon has a session be looked at by then.
func (p *pinger) soon(s *session, by time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if by.Before(s.pings.next) {
		p.at(s, by)
		p.poke()
	}
}

// check does what is due for a session and returns when to look again.
func (s *session) check(now time.Time, interval time.Duration) time.Time {
	if !s.pings.waits() { // else it was done when the ping was sent
		s.count()
		s.refresh()
		s.checkCertificate(now)
	}
	if s.isParked() {
		return s.checkParked(now, interval)
	}
	conn := s.conn.Load()
	next, ping, err := s.pings.check(now, interval, s.gateway.config.PingTimeout, conn)
	switch {
	case err != nil:
		s.Close(err)
	case ping != nil:
		_ = s.out.put(ping, true) // a full queue is a reason to watch the device all the more
	case !s.pings.waits() && s.canPark():
		return earlier(next, s.tryToPark(now, conn))
	}
	return next
}

// check looks at a link that is not parked. It returns when to look again, and what is due: a ping, or the end
// of a session whose device is silent.
func (p *pingState) check(now time.Time, interval, timeout time.Duration, conn *deviceConn) (next time.Time, ping *edgeapi.ServerMessage, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	read, write := conn.LastRead(), conn.LastWrite()
	if p.waiting && read.After(p.sent) {
		p.waiting = false
	}
	if p.waiting {
		silence := now.Sub(p.sent)
		if silence >= timeout && now.Sub(conn.LastTaken()) >= timeout || silence >= silentTimeouts*timeout {
			return now.Add(time.Hour), nil, fmt.Errorf("the device did not answer a ping for %s", silence.Round(time.Second))
		}
		return now.Add(max(timeout-silence, timeout/4)), nil, nil
	}
	quiet := earlier(read, write)
	due := earlier(quiet.Add(interval), p.sent.Add(usageIntervals*interval))
	if p.asked.After(read) {
		due = earlier(due, p.asked.Add(timeout))
	}
	if !due.After(now) {
		return now.Add(timeout), p.ping(now), nil
	}
	return due, nil, nil
}

// waits says whether the session waits for a sign of life.
func (p *pingState) waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// await has the session wait for a sign of life from now on. The answer to a ping before it tells no round trip any more.
func (p *pingState) await(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent, p.waiting, p.answered = now, true, true
}

// expect has a device be probed soon, however rare its heartbeats are, unless it is heard of: it was asked for a stream.
func (s *session) expect(asked time.Time) {
	s.pings.mu.Lock()
	if !s.pings.asked.After(s.conn.Load().LastRead()) {
		s.pings.asked = asked
	}
	s.pings.mu.Unlock()
	s.gateway.pinger.soon(s, asked.Add(s.gateway.config.PingTimeout))
}

// ping is the next ping, for which the session waits from now on. It is called with mu held.
func (p *pingState) ping(now time.Time) *edgeapi.ServerMessage {
	p.id++
	p.sent, p.waiting, p.answered = now, true, false
	return &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Ping{Ping: &edgeapi.Ping{Id: p.id}}}
}

// settle has the session wait for nothing.
func (p *pingState) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting, p.answered = false, true
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// pong takes an answer to the last ping.
func (s *session) pong(pong *edgeapi.Pong, now time.Time) {
	s.usage.Store(pong)
	s.tell(pong.GetTraffic())
	if s.canPark() {
		s.gateway.pinger.soon(s, now.Add(s.gateway.config.ParkAfter)) // it may be the last for a long time
	}
	p := &s.pings
	p.mu.Lock()
	defer p.mu.Unlock()
	if pong.GetId() != p.id || p.answered || p.sent.IsZero() {
		return
	}
	p.answered = true
	rtt := now.Sub(p.sent)
	s.roundTrip.Store(int64(rtt))
	roundTrip.Observe(rtt.Seconds())
}

// checkCertificate has a device renew its certificate in time, and does not let it outstay.
func (s *session) checkCertificate(now time.Time) {
	if now.Unix() > s.notAfter.Load() {
		refused.WithLabelValues(refusedExpired).Inc()
		s.Close(status.Error(codes.Unauthenticated, "the device certificate has expired while connected; renew it"))
		return
	}
	if now.Unix() < s.renewFrom.Load() {
		return
	}
	s.pings.mu.Lock()
	due := now.Sub(s.pings.reminded) >= renewalInterval
	if due {
		s.pings.reminded = now
	}
	s.pings.mu.Unlock()
	if due {
		_ = s.out.put(&edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_Renewal{Renewal: &edgeapi.Renewal{}}}, true)
	}
}

// pingHeap orders sessions by when they are due.
type pingHeap []*session

func (h pingHeap) Len() int           { return len(h) }
func (h pingHeap) Less(i, j int) bool { return h[i].pings.next.Before(h[j].pings.next) }

func (h pingHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pings.index, h[j].pings.index = i, j
}

// Push implements heap.Interface.
func (h *pingHeap) Push(x any) {
	s := x.(*session)
	s.pings.index = len(*h)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *pingHeap) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last], *h = nil, (*h)[:last]
	s.pings.index = -1
	return s
}

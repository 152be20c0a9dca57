package mqtt

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// wire is a publisher that keeps what is sent, with PUBACKs at the test's command.
type wire struct {
	mu     sync.Mutex
	frames []frame
	tokens []*heldToken
	hold   bool
	more   chan struct{}
}

type heldToken struct {
	done chan struct{}
	err  error
}

func (t *heldToken) Done() <-chan struct{} { return t.done }
func (t *heldToken) Error() error          { return t.err }

func (*wire) name() string { return "broker:1883" }

func (w *wire) publish(_ string, payload []byte) token {
	w.mu.Lock()
	defer w.mu.Unlock()
	f, err := decodeFrame(payload)
	if err != nil {
		panic(err) // this end sent it
	}
	w.frames = append(w.frames, f)
	t := &heldToken{done: make(chan struct{})}
	if w.hold {
		w.tokens = append(w.tokens, t)
	} else {
		close(t.done)
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
	return t
}

func (w *wire) sent() []frame {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]frame(nil), w.frames...)
}

// waitSent waits until n frames were sent.
func (w *wire) waitSent(t *testing.T, n int) []frame {
	t.Helper()
	for {
		if frames := w.sent(); len(frames) >= n {
			return frames
		}
		select {
		case <-w.more:
		case <-time.After(10 * time.Second):
			t.Fatalf("only %d of %d frames were sent", len(w.sent()), n)
		}
	}
}

type end struct {
	*conn
	wire     *wire
	counters counters
	resets   []frame
	gone     chan struct{}
}

// newEnd is a server's end whose other end is the test.
func newEnd(t *testing.T) *end {
	t.Helper()
	e := &end{wire: &wire{more: make(chan struct{}, 1)}, gone: make(chan struct{})}
	e.conn = newConn(e.wire, "down", 1024, connID{1, 2})
	e.conn.out.limitBytes, e.conn.out.limitFrames, e.conn.out.maxPayload = windowBytes, windowFrames, 1024
	e.conn.reset = func(f *frame) { e.resets = append(e.resets, *f) }
	e.conn.gone = func() { close(e.gone) }
	e.start(func(run func()) { go run() })
	t.Cleanup(func() {
		e.fail(net.ErrClosed)
		<-e.over
		<-e.gone
	})
	return e
}

func (e *end) data(seq uint64, text string) {
	e.receive(&frame{kind: frameData, id: e.id, seq: seq, creditBytes: windowBytes, creditFrames: windowFrames, data: []byte(text)}, &e.counters)
}

func (e *end) read(t *testing.T, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(e, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDuplicates(t *testing.T) {
	e := newEnd(t)
	e.data(1, "a")
	e.data(1, "a")
	e.data(2, "b")
	e.data(1, "x")
	e.data(3, "c")
	if got := e.read(t, 3); got != "abc" || e.counters.duplicates.Load() != 2 {
		t.Errorf("%q, %d duplicates", got, e.counters.duplicates.Load())
	}
}

func TestGapResets(t *testing.T) {
	for name, second := range map[string]uint64{"dropped or reordered": 3, "forged": 1 << 63} {
		t.Run(name, func(t *testing.T) {
			e := newEnd(t)
			e.data(1, "a")
			e.data(second, "c")
			e.data(2, "b")
			if got := e.read(t, 1); got != "a" {
				t.Errorf("%q", got)
			}
			if _, err := e.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "frame 2 is missing") {
				t.Errorf("after the gap: %v", err)
			}
			if len(e.resets) != 1 || !strings.Contains(e.resets[0].reason(), "frame 2 is missing") || e.resets[0].id != e.id {
				t.Errorf("the other end was told %v", e.resets)
			}
			if _, err := e.Write([]byte("x")); err == nil {
				t.Error("a write succeeded")
			}
		})
	}
}

func TestOverrunResets(t *testing.T) {
	t.Run("frames", func(t *testing.T) {
		e := newEnd(t)
		for seq := range uint64(windowFrames + 1) {
			e.data(seq+1, "a")
		}
		if len(e.resets) != 1 || len(e.in.queue) != windowFrames {
			t.Errorf("%d resets, %d frames held", len(e.resets), len(e.in.queue))
		}
	})
	t.Run("bytes", func(t *testing.T) {
		e := newEnd(t)
		e.data(1, strings.Repeat("a", windowBytes))
		e.data(2, "a")
		if len(e.resets) != 1 || e.in.size != windowBytes {
			t.Errorf("%d resets, %d bytes held", len(e.resets), e.in.size)
		}
	})
}

func TestResetReceived(t *testing.T) {
	e := newEnd(t)
	e.data(1, "a")
	e.receive(resetFrame(e.id, "no more"), &e.counters)
	if got := e.read(t, 1); got != "a" {
		t.Errorf("%q", got)
	}
	if _, err := e.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("%v", err)
	}
	if len(e.resets) != 0 {
		t.Error("a reset was answered with a reset")
	}
}

// TestBrokerLostIsAFailure: that the broker closed its connection is no end of ours in good order.
func TestBrokerLostIsAFailure(t *testing.T) {
	for _, err := range []error{io.EOF, net.ErrClosed} {
		e := newEnd(t)
		e.fail(brokerLost("broker:1883", err))
		l := link.NewConn(e.conn, link.MethodMQTT)
		if _, err := l.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		if failure := l.Failure(); failure == nil || !strings.Contains(failure.Error(), "MQTT broker broker:1883") {
			t.Errorf("%v: the failure is %v", err, failure)
		}
	}
}

// TestCredit: a sender stops when the other end has given no credit, and goes on when it has.
func TestCredit(t *testing.T) {
	e := newEnd(t)
	_ = e.SetWriteDeadline(time.Now().Add(time.Minute))
	total := (windowFrames + 10) * (1024 - headerRoom)
	go func() { _, _ = e.Write(make([]byte, total)) }()
	e.wire.waitSent(t, 1+windowFrames) // and ACCEPT
	sent := e.wire.sent()
	if len(sent) != 1+windowFrames || sent[0].kind != frameAccept {
		t.Fatalf("%d frames were sent, the first is %s", len(sent), sent[0].kind)
	}
	e.receive(&frame{kind: frameCredit, seq: 1, creditBytes: 2 * windowBytes, creditFrames: 2 * windowFrames}, &e.counters)
	sent = e.wire.waitSent(t, 1+windowFrames+10)
	for i, f := range sent[1:] {
		if f.kind != frameData || f.seq != uint64(i+1) || len(f.data) > 1024-headerRoom {
			t.Errorf("frame %d is %s %d with %d bytes", i, f.kind, f.seq, len(f.data))
		}
	}
	// Less credit than before is none of a well-behaved peer, and takes nothing back.
	e.receive(&frame{kind: frameCredit, seq: 2}, &e.counters)
	if e.out.limitFrames != 2*windowFrames {
		t.Errorf("the limit is %d", e.out.limitFrames)
	}
}

// TestReaderGivesCredit: the other end is told when enough was read.
func TestReaderGivesCredit(t *testing.T) {
	e := newEnd(t)
	e.wire.waitSent(t, 1)
	for seq := range uint64(windowFrames / 4) {
		e.data(seq+1, "a")
	}
	e.read(t, windowFrames/4)
	f := e.wire.waitSent(t, 2)[1]
	if f.kind != frameCredit || f.creditFrames != windowFrames+windowFrames/4 || f.creditBytes != windowBytes+windowFrames/4 {
		t.Errorf("%+v", f)
	}
}

// TestInFlight: not more than so many PUBLISH are without a PUBACK.
func TestInFlight(t *testing.T) {
	e := newEnd(t)
	e.wire.waitSent(t, 1)
	e.wire.mu.Lock()
	e.wire.hold = true
	e.wire.mu.Unlock()
	if _, err := e.Write(make([]byte, (maxInFlight+5)*(1024-headerRoom))); err != nil {
		t.Fatal(err)
	}
	e.wire.waitSent(t, 1+maxInFlight)
	e.wire.mu.Lock()
	first := e.wire.tokens[0]
	n := len(e.wire.tokens)
	e.wire.mu.Unlock()
	if n != maxInFlight {
		t.Errorf("%d are in flight", n)
	}
	close(first.done)
	e.wire.waitSent(t, 1+maxInFlight+1)
	e.wire.mu.Lock()
	second := e.wire.tokens[1]
	e.wire.mu.Unlock()
	second.err = errors.New("connection lost")
	close(second.done)
	if _, err := e.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "broker:1883 is down: connection lost") {
		t.Errorf("after a failed publish: %v", err)
	}
}

// TestCloseLingers: what was written is sent before the close, if the other end takes it.
func TestCloseLingers(t *testing.T) {
	e := newEnd(t)
	if _, err := e.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	<-e.over
	frames := e.wire.sent()
	n := 0
	for _, f := range frames {
		n += len(f.data)
	}
	if n != 5000 || frames[len(frames)-1].kind != frameClose {
		t.Errorf("%d bytes were sent, the last frame is %s", n, frames[len(frames)-1].kind)
	}
}

// TestCloseGivesUp: but not forever.
func TestCloseGivesUp(t *testing.T) {
	e := newEnd(t)
	e.wire.waitSent(t, 1)
	e.mu.Lock()
	e.out.limitFrames = 0
	e.mu.Unlock()
	if _, err := e.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = e.Close()
	select {
	case <-e.over:
	case <-time.After(lingerTime + 10*time.Second):
		t.Fatal("the connection is still there")
	}
}

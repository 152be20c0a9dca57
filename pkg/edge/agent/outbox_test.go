package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// line collects what is sent, and fails after so many messages. It takes none that is larger than largest.
type line struct {
	sent    []string
	limit   int
	largest int // 0: no limit
}

func (l *line) Send(_ context.Context, message *edgeapi.DeviceMessage) error {
	if l.largest > 0 && proto.Size(message) > l.largest {
		return fmt.Errorf("%w: it is too large", uplink.ErrMessage)
	}
	if l.limit == 0 {
		return errors.New("the link is down")
	}
	l.limit--
	switch m := message.Message.(type) {
	case *edgeapi.DeviceMessage_NodeStatus:
		l.sent = append(l.sent, "node "+string(m.NodeStatus.Status))
	case *edgeapi.DeviceMessage_PodStatus:
		l.sent = append(l.sent, "status "+m.PodStatus.Uid+" "+string(m.PodStatus.Status))
	case *edgeapi.DeviceMessage_PodRemoved:
		l.sent = append(l.sent, "removed "+m.PodRemoved.Uid)
	case *edgeapi.DeviceMessage_Event:
		l.sent = append(l.sent, "event "+m.Event.Message)
	}
	return nil
}

func status(uid, text string) *edgeapi.PodStatus {
	return &edgeapi.PodStatus{Uid: uid, Status: []byte(text)}
}

// drainAll sends what there is, over a link that takes so many messages.
// It runs in a synctest bubble.
func drainAll(t *testing.T, o *outbox, limit int) []string {
	t.Helper()
	return drainOver(t, o, &line{limit: limit})
}

func drainOver(t *testing.T, o *outbox, l *line) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go o.drain(ctx, l)
	synctest.Wait()
	cancel()
	synctest.Wait()
	return l.sent
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestOutboxKeepsTheLatest(t *testing.T) {
	synctest.Test(t, testOutboxKeepsTheLatest)
}

func testOutboxKeepsTheLatest(t *testing.T) {
	o := newOutbox()
	o.Event(&edgeapi.Event{Message: "1"})
	o.PodStatus(status("a", "old"))
	o.PodStatus(status("b", "b"))
	o.PodStatus(status("a", "new"))
	o.PodStatus(status("c", "c"))
	o.PodRemoved(&edgeapi.PodRemoved{Uid: "c"})
	o.NodeStatus(&edgeapi.NodeStatus{Status: []byte("old")})
	o.NodeStatus(&edgeapi.NodeStatus{Status: []byte("new")})
	expect(t, drainAll(t, o, -1), "node new", "status a new", "status b b", "removed c", "event 1")
	expect(t, drainAll(t, o, -1))
}

func TestOutboxKeepsWhatWasNotSent(t *testing.T) {
	synctest.Test(t, testOutboxKeepsWhatWasNotSent)
}

func testOutboxKeepsWhatWasNotSent(t *testing.T) {
	o := newOutbox()
	o.NodeStatus(&edgeapi.NodeStatus{Status: []byte("n")})
	o.PodStatus(status("a", "1"))
	o.PodRemoved(&edgeapi.PodRemoved{Uid: "b"})
	o.Event(&edgeapi.Event{Message: "1"})
	for _, want := range []string{"node n", "status a 1", "removed b", "event 1"} {
		expect(t, drainAll(t, o, 0))
		expect(t, drainAll(t, o, 1), want)
	}
	// What is out of date by then is not sent again.
	message, restore := func() (*edgeapi.DeviceMessage, func()) {
		o.PodStatus(status("a", "2"))
		return o.next()
	}()
	if message.GetPodStatus() == nil {
		t.Fatalf("got %v", message)
	}
	o.PodStatus(status("a", "3"))
	restore()
	expect(t, drainAll(t, o, -1), "status a 3")
	o.PodStatus(status("a", "4"))
	_, restore = o.next()
	o.PodRemoved(&edgeapi.PodRemoved{Uid: "a"})
	restore()
	expect(t, drainAll(t, o, -1), "removed a")
	// Nor is a status of the node that Hello carried.
	o.NodeStatus(&edgeapi.NodeStatus{Status: []byte("n")})
	o.dropNodeStatus()
	expect(t, drainAll(t, o, -1))
}

// A message that cannot be sent does not hold up the others.
func TestOutboxGoesOnWithoutWhatCannotBeSent(t *testing.T) {
	const largest = 200
	large := strings.Repeat("x", largest)
	told := "event the device cannot report the status of the pod: " + uplink.ErrMessage.Error() + ": it is too large"
	for name, tt := range map[string]struct {
		put  func(*outbox)
		want []string
	}{
		"status": {func(o *outbox) { o.PodStatus(status("a", large)) }, []string{"status b b", "removed c", told}},
		"last status": {
			func(o *outbox) { o.PodRemoved(&edgeapi.PodRemoved{Uid: "a", Status: []byte(large)}) },
			[]string{"status b b", "removed c", "removed a"},
		},
		"removal": {func(o *outbox) { o.PodRemoved(&edgeapi.PodRemoved{Uid: large}) }, []string{"status b b", "removed c"}},
		"node":    {func(o *outbox) { o.NodeStatus(&edgeapi.NodeStatus{Status: []byte(large)}) }, []string{"status b b", "removed c"}},
		"static pods": {
			func(o *outbox) { o.StaticPods(&edgeapi.StaticPods{Pods: []*edgeapi.StaticPod{{Uid: large}}}) },
			[]string{"status b b", "removed c"},
		},
		"event": {func(o *outbox) { o.Event(&edgeapi.Event{Message: large}) }, []string{"status b b", "removed c"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutbox()
				o.wantStatic(true)
				tt.put(o)
				o.PodStatus(status("b", "b"))
				o.PodRemoved(&edgeapi.PodRemoved{Uid: "c"})
				expect(t, drainOver(t, o, &line{limit: -1, largest: largest}), tt.want...)
				expect(t, drainAll(t, o, -1))
			})
		})
	}
}

func TestOutboxIsBounded(t *testing.T) {
	synctest.Test(t, testOutboxIsBounded)
}

func testOutboxIsBounded(t *testing.T) {
	o := newOutbox()
	for i := range 2 * maxEvents {
		o.Event(&edgeapi.Event{Message: fmt.Sprint(i)})
	}
	for i := range 2 * maxRemoved {
		o.PodRemoved(&edgeapi.PodRemoved{Uid: fmt.Sprint(i)})
		o.PodStatus(status("same", fmt.Sprint(i)))
	}
	sent := drainAll(t, o, -1)
	if len(sent) != maxEvents+maxRemoved+1 || sent[len(sent)-1] != fmt.Sprintf("event %d", 2*maxEvents-1) {
		t.Errorf("sent %d messages, the last is %q", len(sent), sent[len(sent)-1])
	}
}

// The log tells, once, how many events were dropped while they waited for a link.
func TestOutboxTellsOfDroppedEvents(t *testing.T) {
	o := newOutbox()
	for i := range maxEvents + 3 {
		o.Event(&edgeapi.Event{Message: fmt.Sprint(i)})
	}
	for _, want := range []bool{true, false} {
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		o.drain(klog.NewContext(t.Context(), logger), &line{}) // which breaks at once
		if log := logger.GetSink().(ktesting.Underlier).GetBuffer().String(); strings.Contains(log, "dropped=3") != want {
			t.Errorf("the log is %q", log)
		}
	}
}

package links

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/utils/clock"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// fakeSession is a link that only has a name.
type fakeSession struct {
	gateway.Session
	device gateway.Device
}

func (s *fakeSession) Device() gateway.Device { return s.device }
func (s *fakeSession) Hello() *edgeapi.Hello {
	return &edgeapi.Hello{NodeStatus: &edgeapi.NodeStatus{Status: []byte("hello")}}
}
func (s *fakeSession) Info() gateway.Info { return gateway.Info{} }

type listener struct{ calls []string }

func (l *listener) LinkUp(s gateway.Session) { l.calls = append(l.calls, "up "+string(s.Device().UID)) }
func (l *listener) LinkDown(d gateway.Device, lost Loss) {
	l.calls = append(l.calls, "down "+string(d.UID)+" "+lost.Reason.Error())
}
func (l *listener) Message(s gateway.Session, _ *edgeapi.DeviceMessage) {
	l.calls = append(l.calls, "message "+string(s.Device().UID))
}

func TestTracker(t *testing.T) {
	a1 := &fakeSession{device: gateway.Device{Namespace: "ns", Name: "a", UID: "1"}}
	a2 := &fakeSession{device: a1.device}
	former := &fakeSession{device: gateway.Device{Namespace: "ns", Name: "a", UID: "0"}}
	lost := errors.New("lost")
	status := &edgeapi.NodeStatus{Status: []byte("later")}
	message := &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_NodeStatus{NodeStatus: status}}

	for name, tt := range map[string]struct {
		do   func(*Tracker)
		want []string
		live gateway.Session
	}{
		"up and down": {do: func(t *Tracker) { t.SessionStarted(a1); t.SessionEnded(a1, lost) }, want: []string{"up 1", "down 1 lost"}},
		"up, and aranya stops": {do: func(t *Tracker) {
			t.SessionStarted(a1)
			t.SessionEnded(a1, fmt.Errorf("replica r1 %w", gateway.ErrStopping))
		}, want: []string{"up 1"}},
		"replaced, old ends late":    {do: func(t *Tracker) { t.SessionStarted(a1); t.SessionStarted(a2); t.SessionEnded(a1, lost) }, want: []string{"up 1", "up 1"}, live: a2},
		"replaced, old ends first":   {do: func(t *Tracker) { t.SessionStarted(a1); t.SessionEnded(a1, lost); t.SessionStarted(a2) }, want: []string{"up 1", "down 1 lost", "up 1"}, live: a2},
		"old has nothing to say":     {do: func(t *Tracker) { t.SessionStarted(a1); t.SessionStarted(a2); t.DeviceMessage(a1, message) }, want: []string{"up 1", "up 1"}, live: a2},
		"message":                    {do: func(t *Tracker) { t.SessionStarted(a1); t.DeviceMessage(a1, message) }, want: []string{"up 1", "message 1"}, live: a1},
		"former EdgeDevice":          {do: func(t *Tracker) { t.SessionStarted(former) }, want: []string{"up 0"}},
		"end of what never was here": {do: func(t *Tracker) { t.SessionEnded(a1, lost) }},
	} {
		t.Run(name, func(t *testing.T) {
			tracker, l := NewTracker(clock.RealClock{}, time.Minute), &listener{}
			tracker.AddListener(l)
			tt.do(tracker)
			if !slices.Equal(l.calls, tt.want) {
				t.Errorf("calls %v, want %v", l.calls, tt.want)
			}
			if got := tracker.Session(Key(a1.device), "1"); got != tt.live {
				t.Errorf("session %v, want %v", got, tt.live)
			}
		})
	}

	tracker := NewTracker(clock.RealClock{}, time.Minute)
	tracker.SessionStarted(a1)
	if got := tracker.NodeStatus(a1); string(got.Status) != "hello" {
		t.Errorf("node status: %v", got)
	}
	tracker.DeviceMessage(a1, message)
	if got := tracker.NodeStatus(a1); got != status {
		t.Errorf("node status: %v", got)
	}
	if d, ok := tracker.Linked(Key(former.device)); !ok || d != a1.device {
		t.Errorf("linked: %v %v", d, ok)
	}
}

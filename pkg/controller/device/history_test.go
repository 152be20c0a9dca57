package device

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/links"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// An EdgeDevice that is created again under its name, as by "kubectl replace --force", knows nothing of the links of the
// former one, which end when it is there already.
func TestLinksOfAFormerEdgeDevice(t *testing.T) {
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u", Generation: 1}}
	for name, tt := range map[string]struct {
		uid  types.UID
		want string // reason of the condition Connected
	}{
		"former":  {uid: "former", want: aranya.NeverConnected().Reason},
		"its own": {uid: "u", want: aranya.ReasonDisconnected},
	} {
		t.Run(name, func(t *testing.T) {
			c := newController(t, Config{}, ed)
			now := c.config.Clock.Now()
			c.LinkDown(gateway.Device{Namespace: "ns", Name: "d", UID: tt.uid}, links.Loss{Reason: errDeleted, At: now, LastSeen: now})
			// It is known before it is stored.
			if seen := c.LastSeen(ed); seen.IsZero() != (tt.uid != ed.UID) || !seen.IsZero() && !seen.Equal(now) {
				t.Errorf("last seen %v", seen)
			}
			got := synced(t, c, ed)
			connected := meta.FindStatusCondition(got.Status.Conditions, aranya.EdgeDeviceConnected)
			if seen := got.Status.LastSeen != nil; connected.Reason != tt.want || seen != (tt.uid == ed.UID) {
				t.Errorf("condition %+v, last seen %v", connected, got.Status.LastSeen)
			}
		})
	}
}

// A link that the tracker knows of a moment before the controller is told is not written about, nor one that is lost
// likewise: the status would tell of it already when it is asked whether the link is news.
func TestLinksAreToldBeforeTheyAreWritten(t *testing.T) {
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u", Generation: 1}, Spec: aranya.EdgeDeviceSpec{Node: aranya.NodeSpec{Disabled: true}}}
	clock := clocktesting.NewFakeClock(time.Unix(1e9, 0))
	c := newController(t, Config{Clock: clock}, ed)
	tracker := c.config.Tracker
	session := silent{link{device: gateway.DeviceOf(ed)}, clock.Now()}
	for _, step := range []struct {
		name string
		do   func()
		want metav1.ConditionStatus // of Connected, empty if nothing is written
	}{
		{"the link is up", func() { tracker.SessionStarted(session) }, ""},
		{"it is told of", func() { c.LinkUp(session) }, metav1.ConditionTrue},
		{"the link is lost", func() { tracker.SessionEnded(session, errDeleted) }, metav1.ConditionTrue},
		{"it is told of, and nobody has come back", func() {
			c.LinkDown(session.Device(), links.Loss{Reason: errDeleted, At: clock.Now(), LastSeen: clock.Now()})
			clock.Step(2 * time.Hour)
		}, metav1.ConditionFalse},
	} {
		step.do()
		var connected metav1.ConditionStatus
		if condition := meta.FindStatusCondition(synced(t, c, ed).Status.Conditions, aranya.EdgeDeviceConnected); condition != nil {
			connected = condition.Status
		}
		if connected != step.want {
			t.Errorf("%s: the status is written with %q, want %q", step.name, connected, step.want)
		}
	}
}

// What is stored of a device that has been silent since is when it was heard of, not when it is written.
func TestLastSeen(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1e9, 0))
	c := newController(t, Config{Clock: clock})
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"}}
	heard := clock.Now()
	c.config.Tracker.SessionStarted(silent{link{device: gateway.DeviceOf(ed)}, heard})
	clock.Step(25 * time.Minute)
	if status, _ := c.status(t.Context(), ed); !status.LastSeen.Time.Equal(heard) {
		t.Errorf("stored as seen %s after it was", status.LastSeen.Sub(heard))
	}
}

// ticking is a clock that goes on each time that it is looked at.
type ticking struct{ *clocktesting.FakeClock }

func (c ticking) Now() time.Time {
	c.Step(600 * time.Millisecond)
	return c.FakeClock.Now()
}

// A device that may still come back is looked at again, however soon that time is over.
func TestPatienceThatEnds(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1e9, 0))
	c := newController(t, Config{Clock: clock, Tracker: links.NewTracker(ticking{clock}, time.Hour)})
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"}}
	meta.SetStatusCondition(&ed.Status.Conditions, metav1.Condition{Type: aranya.EdgeDeviceConnected, Status: metav1.ConditionTrue, Reason: aranya.ReasonConnected})
	c.LinkDown(gateway.DeviceOf(ed), links.Loss{Reason: errDeleted, At: clock.Now(), LastSeen: clock.Now()})
	status, again := c.status(t.Context(), ed)
	if connected := meta.IsStatusConditionTrue(status.Conditions, aranya.EdgeDeviceConnected); !connected || again <= 0 {
		t.Errorf("connected %t, looked at again after %s", connected, again)
	}
}

// silent is a link over which nothing came since a time.
type silent struct {
	link
	since time.Time
}

func (s silent) Hello() *edgeapi.Hello { return &edgeapi.Hello{NodeStatus: &edgeapi.NodeStatus{}} }
func (s silent) Info() gateway.Info    { return gateway.Info{Method: "mqtt", LastSeen: s.since} }

package device

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/node"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned/fake"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

func TestDirectory(t *testing.T) {
	ed := &aranya.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"},
		Status:     aranya.EdgeDeviceStatus{Phase: aranya.EdgeDeviceOnline},
	}
	deleting := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "deleting", UID: "u", DeletionTimestamp: &metav1.Time{Time: time.Now()}, Finalizers: []string{"x"}}}
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, o := range []*aranya.EdgeDevice{ed, deleting} {
		if err := indexer.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	client := fake.NewClientset(ed, deleting)
	d := Directory{Lister: aranyalisters.NewEdgeDeviceLister(indexer), Client: client}

	if got, err := d.Get("ns", "d"); err != nil || got.UID != "u" {
		t.Errorf("get: %v %v", got, err)
	}
	if _, err := d.Get("ns", "no"); !apierrors.IsNotFound(err) {
		t.Errorf("get of what does not exist: %v", err)
	}
	issued := time.Now().Truncate(time.Microsecond)
	enrolled := &metav1.MicroTime{Time: issued.Add(time.Second)}
	certificate := aranya.CertificateStatus{SerialNumber: "5", PublicKeySHA256: "a", EnrolledAt: enrolled}
	set := func(name, uid string, c aranya.CertificateStatus, token time.Time) error {
		return d.SetCertificate(context.Background(), gateway.Device{Namespace: "ns", Name: name, UID: types.UID(uid)}, c, token)
	}
	if err := set("d", "u", certificate, issued); err != nil {
		t.Fatal(err)
	}
	got, err := d.Stored(context.Background(), "ns", "d")
	if err != nil || got.Status.Certificate == nil || got.Status.Certificate.SerialNumber != "5" || got.Status.Phase != aranya.EdgeDeviceOnline ||
		!got.Status.Certificate.EnrolledAt.Equal(enrolled) {
		t.Errorf("status: %+v %v", got.Status, err)
	}
	if err := indexer.Update(got); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what      string
		name, uid string
		key       string
		token     time.Time
		want      error
	}{
		{"another EdgeDevice of that name", "d", "former", "a", issued, gateway.ErrReplaced},
		{"what is being deleted", "deleting", "u", "a", issued, gateway.ErrReplaced},
		{"a token that is used up", "d", "u", "b", issued, gateway.ErrTokenUsed},
		{"a renewal with another key", "d", "u", "b", time.Time{}, gateway.ErrReplaced},
		{"a renewal", "d", "u", "a", time.Time{}, nil},
	} {
		err := set(tt.name, tt.uid, aranya.CertificateStatus{SerialNumber: "6", PublicKeySHA256: tt.key}, tt.token)
		if !errors.Is(err, tt.want) || apierrors.IsConflict(err) {
			t.Errorf("%s: %v, want %v", tt.what, err, tt.want)
		}
	}
	if got, err = d.Stored(context.Background(), "ns", "d"); err != nil || got.Status.Certificate.SerialNumber != "6" || !got.Status.Certificate.EnrolledAt.Equal(enrolled) {
		t.Errorf("after the renewal: %+v %v", got.Status.Certificate, err)
	}
	if err := set("no", "u", certificate, issued); !apierrors.IsNotFound(err) {
		t.Errorf("certificate for what does not exist: %v", err)
	}
}

func TestNodeReadyCondition(t *testing.T) {
	ready := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "DeviceDisconnected", Message: "lost"}}}}
	for name, tt := range map[string]struct {
		disabled bool
		node     *corev1.Node
		conflict string
		problem  node.Problem
		status   metav1.ConditionStatus
		reason   string
	}{
		"none yet":      {status: metav1.ConditionFalse, reason: aranya.ReasonNoNode},
		"disabled":      {disabled: true, status: metav1.ConditionFalse, reason: aranya.ReasonNodeDisabled},
		"conflict":      {conflict: "Node d exists already", status: metav1.ConditionFalse, reason: aranya.ReasonConflict},
		"refused":       {problem: node.Problem{Reason: aranya.ReasonNodeRefused, Message: "no"}, status: metav1.ConditionFalse, reason: aranya.ReasonNodeRefused},
		"not changed":   {node: ready, problem: node.Problem{Reason: aranya.ReasonNodeRefused}, status: metav1.ConditionUnknown, reason: "DeviceDisconnected"},
		"mirrored":      {node: ready, status: metav1.ConditionUnknown, reason: "DeviceDisconnected"},
		"being removed": {disabled: true, node: ready, status: metav1.ConditionUnknown, reason: "DeviceDisconnected"},
		"no condition":  {node: &corev1.Node{}, status: metav1.ConditionUnknown, reason: aranya.ReasonNoNode},
		"no reason": {node: &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}},
			status: metav1.ConditionTrue, reason: "NodeStatusTrue"},
		"a reason that the API refuses": {node: &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "not ready!", Message: strings.Repeat("x", 40<<10)},
		}}}, status: metav1.ConditionFalse, reason: "NodeStatusFalse"},
	} {
		t.Run(name, func(t *testing.T) {
			ed := &aranya.EdgeDevice{Spec: aranya.EdgeDeviceSpec{Node: aranya.NodeSpec{Disabled: tt.disabled}}}
			nodeReady(ed, tt.node, tt.conflict, tt.problem, func(kind string, s metav1.ConditionStatus, reason, message string) {
				if s != tt.status || reason != tt.reason {
					t.Errorf("%s %s, want %s %s", s, reason, tt.status, tt.reason)
				}
				c := metav1.Condition{Type: kind, Status: s, Reason: reason, Message: message, LastTransitionTime: metav1.Now()}
				if errs := metav1validation.ValidateCondition(c, nil); len(errs) > 0 {
					t.Errorf("it cannot be stored: %v", errs.ToAggregate())
				}
			})
		})
	}
}

// Who waits for a condition waits for one of the present generation. A device that is away is no exception, and costs
// no write unless its EdgeDevice has changed.
func TestConnectedConditionOfADeviceThatIsAway(t *testing.T) {
	since := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	for name, connected := range map[string]metav1.Condition{
		"never connected":                      aranya.NeverConnected(),
		"offline since before aranya's start":  {Status: metav1.ConditionFalse, Reason: aranya.ReasonDisconnected, Message: "The device closed the link"},
		"it did not come back after a restart": {Status: metav1.ConditionFalse, Reason: aranya.ReasonAfterRestart, Message: "Not since"},
		"it may still come back":               {Status: metav1.ConditionTrue, Reason: aranya.ReasonConnected, Message: "The device is connected over grpc"},
	} {
		t.Run(name, func(t *testing.T) {
			connected.Type, connected.ObservedGeneration, connected.LastTransitionTime = aranya.EdgeDeviceConnected, 1, since
			ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u", Generation: 1}}
			ed.Status.Conditions = []metav1.Condition{connected}
			c := newController(t, Config{Clock: clock.RealClock{}, ReconnectGrace: time.Hour})
			status, _ := c.status(t.Context(), ed)
			ed.Status = *status
			if again, _ := c.status(t.Context(), ed); !same(&ed.Status, again) {
				t.Errorf("written again: %+v", again)
			}
			ed.Generation = 5
			status, _ = c.status(t.Context(), ed)
			connected.ObservedGeneration = 5
			if got := meta.FindStatusCondition(status.Conditions, aranya.EdgeDeviceConnected); *got != connected {
				t.Errorf("condition %+v, want %+v", *got, connected)
			}
		})
	}
}

func TestHostOfAddress(t *testing.T) {
	for address, want := range map[string]string{"192.0.2.1:80": "192.0.2.1", "[fd00::1]:80": "fd00::1", "mqtt broker": "mqtt broker"} {
		if got := host(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

// An EdgeDevice that was just written here is no news; what anybody else wrote is.
func TestOwnWritesAreNoNews(t *testing.T) {
	c := newController(t, Config{Clock: clock.RealClock{}})
	key := types.NamespacedName{Namespace: "ns", Name: "d"}
	told := func(version string) bool {
		t.Helper()
		ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u", ResourceVersion: version}}
		c.deviceHandler().OnUpdate(&aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"}}, ed)
		if c.queue.Len() == 0 {
			return false
		}
		item, _ := c.queue.Get()
		c.queue.Done(item)
		return true
	}
	if c.setWritten(key, "5"); !told("5") {
		t.Error("a device without a link is remembered")
	}
	c.remember(key, linkHistory{})
	if !told("") {
		t.Error("not told of a version that nobody knows")
	}
	c.setWritten(key, "5")
	for version, want := range map[string]bool{"4": true, "5": false, "6": true} {
		if told(version) != want {
			t.Errorf("version %s: told %v, want %v", version, !want, want)
		}
	}
	if c.remember(key, linkHistory{}); !told("5") {
		t.Error("not told after there was another link")
	}
}

// toldQueue notes what is to be looked at later.
type toldQueue struct {
	workqueue.TypedRateLimitingInterface[types.NamespacedName]
	keys  []types.NamespacedName
	after []time.Duration
}

func (q *toldQueue) AddAfter(key types.NamespacedName, after time.Duration) {
	q.keys, q.after = append(q.keys, key), append(q.after, after)
}

// What a device says of itself is looked at soon, unless it says something all the time.
func TestPace(t *testing.T) {
	c := newController(t, Config{})
	told := &toldQueue{TypedRateLimitingInterface: c.queue}
	c.queue = told
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"}}
	for i := range pace.Burst + 2 {
		c.Message(link{device: gateway.DeviceOf(ed)}, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_NodeStatus{}})
		if err := c.write(t.Context(), ed, &aranya.EdgeDeviceStatus{}); err != nil {
			t.Fatal(err)
		}
		if want := max(settle, time.Duration(i+1-pace.Burst)*pace.Every); told.after[i] != want {
			t.Errorf("the %d. time after %s, want %s", i+1, told.after[i], want)
		}
	}
	if c.forget(deviceKey(ed)); len(c.spent) > 0 {
		t.Error("remembered for ever")
	}
}

// link is a session of which only the device is known.
type link struct {
	gateway.Session
	device gateway.Device
}

func (l link) Device() gateway.Device { return l.device }

func deviceKey(ed *aranya.EdgeDevice) types.NamespacedName {
	return types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name}
}

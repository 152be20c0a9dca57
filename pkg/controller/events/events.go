// Package events records events: on EdgeDevices, on their Nodes and on pods. Repeated events are
// aggregated and rate-limited per object. When an event is worth recording is decided elsewhere.
package events

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/lru"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/clip"
	"arhat.dev/aranya/pkg/controller/queue"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// Sources of events.
const (
	// Component is the source of aranya's own events.
	Component = "aranya"
	// DeviceComponent is the source of events on an EdgeDevice that the device reports; the host is its Node.
	DeviceComponent = "arhat"
	// NodeComponent is the source of events on a pod or a Node that come from the Node, as the host: that is
	// what users and their tools select them by.
	NodeComponent = "kubelet"
)

// Bounds on what a device may say in an event.
const (
	maxReason    = 128
	maxMessage   = 1024
	maxFieldPath = 512
	maxAge       = 30 * 24 * time.Hour
)

// Clients write events. Each should have a limit of its own, so that the events of a thousand devices that
// come at once do not hold up their Nodes, and a warning does not wait for all that goes well.
type Clients struct {
	Normal, Warning kubernetes.Interface
}

// pace is that of the events from one source, well below what is written of all and what may wait for it (maxQueued):
// what is more is dropped, so that no device can keep the events of others from being written.
var pace = queue.Pace{Burst: 250, Every: time.Second / 5}

// maxSources is of how many sources it is known what they have used of their pace: of those that were heard of last.
const maxSources = 1 << 15

// source is where events come from: a device itself, what aranya tells of it, of its pods or of its Node.
type source struct {
	component       string
	namespace, name string
	eventType       string
}

// Why events are dropped, as in the metric.
const (
	droppedPace  = "pace"
	droppedQueue = "queue"
)

var dropped = metrics.NewCounterVec(&metrics.CounterOpts{
	Name: "aranya_events_dropped_total", StabilityLevel: metrics.ALPHA,
	Help: "Events that were not recorded, by why: too many from one source (pace), or too many at once (queue).",
}, []string{"reason"})

var registerMetrics = sync.OnceFunc(func() { legacyregistry.MustRegister(dropped) })

// Recorder records events. Events are dropped if they come faster than they can be written; warnings are
// held apart from the others. All methods may be called concurrently and do not block.
type Recorder struct {
	normal, warning *lane
	now             func() time.Time

	mu    sync.Mutex
	spent *lru.Cache // *queue.Spent by source
}

// New returns a Recorder. What it gets before Start is lost. It ends with ctx.
func New(ctx context.Context) *Recorder {
	registerMetrics()
	return &Recorder{
		normal:  newLane(ctx),
		warning: newLane(ctx),
		now:     time.Now,
		spent:   lru.New(maxSources),
	}
}

// Start writes the events to the cluster.
func (r *Recorder) Start(clients Clients) {
	r.normal.start(clients.Normal)
	r.warning.start(clients.Warning)
}

// Stop ends the recording.
func (r *Recorder) Stop() {
	r.normal.Shutdown()
	r.warning.Shutdown()
}

// Device records an event on an EdgeDevice.
func (r *Recorder) Device(d gateway.Device, eventType, reason, format string, args ...any) {
	if r.allowed(source{Component, d.Namespace, d.Name, eventType}) {
		r.record(Component, "", deviceReference(d), eventType, reason, fmt.Sprintf(format, args...))
	}
}

// Node records an event on a Node: of what its EdgeDevice cannot have, or has in other words.
func (r *Recorder) Node(name, eventType, reason, format string, args ...any) {
	if r.allowed(source{Component, "", name, eventType}) {
		r.record(Component, "", nodeReference(name), eventType, reason, fmt.Sprintf(format, args...))
	}
}

// Pod records an event on a pod that is bound to a Node: one that the kubelet there would record.
func (r *Recorder) Pod(pod *corev1.Pod, eventType, reason, format string, args ...any) {
	r.pod(podReference(pod, ""), pod.Spec.NodeName, eventType, reason, fmt.Sprintf(format, args...))
}

// Container records an event on a container of such a pod, be it an init container or an ephemeral one.
func (r *Recorder) Container(pod *corev1.Pod, name, eventType, reason, format string, args ...any) {
	list := "containers"
	switch {
	case slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name }):
		list = "initContainers"
	case slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name }):
		list = "ephemeralContainers"
	}
	r.pod(podReference(pod, fmt.Sprintf("spec.%s{%s}", list, name)), pod.Spec.NodeName, eventType, reason, fmt.Sprintf(format, args...))
}

func (r *Recorder) pod(about *corev1.ObjectReference, nodeName, eventType, reason, message string) {
	if r.allowed(source{NodeComponent, "", nodeName, eventType}) {
		r.record(NodeComponent, nodeName, about, eventType, reason, message)
	}
}

// allowed says whether one more event from a source may be recorded now.
func (r *Recorder) allowed(s source) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var spent *queue.Spent
	if known, ok := r.spent.Get(s); ok {
		spent = known.(*queue.Spent)
	} else {
		spent = &queue.Spent{}
		r.spent.Add(s, spent)
	}
	now := r.now()
	if pace.Wait(*spent, now) > 0 {
		dropped.WithLabelValues(droppedPace).Inc()
		return false
	}
	pace.Spend(spent, now)
	return true
}

// record records what happens now.
func (r *Recorder) record(component, host string, about *corev1.ObjectReference, eventType, reason, message string) {
	if l := r.lane(eventType); l.admit(about, reason) {
		l.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: host}).Event(about, eventType, reason, clip.String(message, maxMessage))
	}
}

func (r *Recorder) lane(eventType string) *lane {
	if eventType == corev1.EventTypeWarning {
		return r.warning
	}
	return r.normal
}

// FromDevice records what a device reports about a pod of its own, or about itself if pod is nil:
// then on its EdgeDevice, and on its Node if it has one.
func (r *Recorder) FromDevice(d gateway.Device, nodeName string, pod *corev1.Pod, event *edgeapi.Event) {
	eventType := corev1.EventTypeNormal
	if event.GetType() == corev1.EventTypeWarning {
		eventType = corev1.EventTypeWarning
	}
	reason, message := clip.String(event.GetReason(), maxReason), clip.String(event.GetMessage(), maxMessage)
	if reason == "" || !r.allowed(source{DeviceComponent, d.Namespace, d.Name, eventType}) {
		return
	}
	at := happened(event.GetTimeMs(), time.Now())
	if pod != nil {
		r.past(NodeComponent, nodeName, at, podReference(pod, clip.String(event.GetFieldPath(), maxFieldPath)), eventType, reason, message)
		return
	}
	r.past(DeviceComponent, nodeName, at, deviceReference(d), eventType, reason, message)
	if nodeName != "" {
		r.past(NodeComponent, nodeName, at, nodeReference(nodeName), eventType, reason, message)
	}
}

// happened is when something happened, as a device says: perhaps long ago, while it was away. One that says what cannot
// be has a wrong clock.
func happened(ms int64, now time.Time) time.Time {
	if at := time.UnixMilli(ms); !at.After(now) && now.Sub(at) <= maxAge {
		return at
	}
	return now
}

// dropper is what a recorder puts its events into.
type dropper interface {
	ActionOrDrop(action watch.EventType, object runtime.Object) (bool, error)
}

// past records an event as a record.EventRecorder does, but with the time at which it happened.
func (r *Recorder) past(component, host string, at time.Time, about *corev1.ObjectReference, eventType, reason, message string) {
	l := r.lane(eventType)
	if !l.admit(about, reason) {
		return
	}
	recorder := l.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component, Host: host})
	queue, ok := recorder.(dropper)
	if !ok {
		recorder.Event(about, eventType, reason, message)
		return
	}
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name:      util.GenerateEventName(about.Name, time.Now().UnixNano()),
			Namespace: cmp.Or(about.Namespace, metav1.NamespaceDefault),
		},
		InvolvedObject: *about, Type: eventType, Reason: reason, Message: message,
		FirstTimestamp: metav1.NewTime(at), LastTimestamp: metav1.NewTime(at), Count: 1,
		Source: corev1.EventSource{Component: component, Host: host}, ReportingController: component, ReportingInstance: host,
	}
	_, _ = queue.ActionOrDrop(watch.Added, event) // there is room, unless the Recorder has stopped
}

// deviceReference refers to an EdgeDevice.
func deviceReference(d gateway.Device) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: aranya.SchemeGroupVersion.String(), Kind: "EdgeDevice",
		Namespace: d.Namespace, Name: d.Name, UID: d.UID,
	}
}

// nodeReference refers to a Node as the kubelet does: with its name for a UID, which kubectl expects.
func nodeReference(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(name)}
}

// podReference refers to a pod. What shows a static pod stands for that, under whose UID kubectl looks for events.
func podReference(pod *corev1.Pod, fieldPath string) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: staticpod.UIDOnDevice(pod, pod.Namespace),
		ResourceVersion: pod.ResourceVersion, FieldPath: fieldPath,
	}
}

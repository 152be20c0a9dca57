package events

import (
	"context"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
)

// maxQueued is how many events may wait in a lane: what an EventBroadcaster holds. What is more it would drop
// without a word.
const maxQueued = 1000

// lane writes events in turn.
type lane struct {
	record.EventBroadcaster
	started atomic.Bool
	queued  atomic.Int64
}

func newLane(ctx context.Context) *lane {
	l := &lane{}
	l.EventBroadcaster = record.NewBroadcaster(record.WithContext(ctx), record.WithCorrelatorOptions(record.CorrelatorOptions{
		KeyFunc: func(event *corev1.Event) (aggregateKey, localKey string) {
			l.queued.Add(-1) // each event is asked for its key once, when it has left the queue
			return record.EventAggregatorByReasonFunc(event)
		},
	}))
	return l
}

func (l *lane) start(client kubernetes.Interface) {
	l.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	l.started.Store(true)
}

// admit says whether there is room for an event, which must then be recorded.
func (l *lane) admit(about *corev1.ObjectReference, reason string) bool {
	if !l.started.Load() {
		return false
	}
	if l.queued.Add(1) > maxQueued {
		l.queued.Add(-1)
		dropped.WithLabelValues(droppedQueue).Inc()
		klog.Background().V(2).Info("Dropped an event: too many are queued", "object", klog.KRef(about.Namespace, about.Name), "reason", reason)
		return false
	}
	return true
}

package pods

import (
	"sync"
	"time"

	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/clip"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	// repeatInterval is how long an event is not repeated in the same words: a link may be metered. What is left
	// out is not counted either, as the cluster's recorder counts by itself what it gets.
	repeatInterval = time.Minute
	// maxRemembered bounds the events that are remembered per pod.
	maxRemembered = 64
	// maxMessage is what the API server accepts in an event.
	maxMessage = 1024
)

// recorder sends events to the cloud and leaves out repetitions.
type recorder struct {
	sink  Sink
	clock clock.PassiveClock

	mu   sync.Mutex
	last map[string]map[eventKey]time.Time // by pod
}

type eventKey struct{ path, reason, message string }

func newRecorder(sink Sink, c clock.PassiveClock) *recorder {
	return &recorder{sink: sink, clock: c, last: map[string]map[eventKey]time.Time{}}
}

func (r *recorder) event(podUID, fieldPath, eventType, reason, message string) {
	message = clip.String(message, maxMessage)
	now := r.clock.Now()
	key := eventKey{fieldPath, reason, message}
	r.mu.Lock()
	seen := r.last[podUID]
	if seen == nil {
		seen = map[eventKey]time.Time{}
		r.last[podUID] = seen
	}
	at, repeated := seen[key]
	repeated = repeated && now.Sub(at) < repeatInterval
	if !repeated {
		if len(seen) >= maxRemembered {
			clear(seen)
		}
		seen[key] = now
	}
	r.mu.Unlock()
	if repeated {
		return
	}
	r.sink.Event(&edgeapi.Event{
		PodUid: podUID, FieldPath: fieldPath, Type: eventType, Reason: reason, Message: message, TimeMs: now.UnixMilli(),
	})
}

// DeviceEvent records an event about the device itself.
func (m *Manager) DeviceEvent(eventType, reason, message string) {
	m.events.event("", "", eventType, reason, message)
}

// forget drops what is remembered of a pod.
func (r *recorder) forget(podUID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, podUID)
}

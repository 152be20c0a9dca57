package gateway

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// registry holds the live sessions, one per device.
type registry struct {
	mu       sync.RWMutex
	sessions map[types.NamespacedName]*session
	closed   bool
}

func (r *registry) init() { r.sessions = map[types.NamespacedName]*session{} }

func keyOf(d Device) types.NamespacedName {
	return types.NamespacedName{Namespace: d.Namespace, Name: d.Name}
}

func (r *registry) get(namespace, name string) *session {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.sessions[types.NamespacedName{Namespace: namespace, Name: name}]
}

func (r *registry) all() []*session {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*session, 0, len(r.sessions))
	for _, s := range r.sessions {
		all = append(all, s)
	}
	return all
}

func (r *registry) count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.sessions)
}

// put makes s the session of its device and returns the one that was. It fails once drained.
func (r *registry) put(s *session) (former *session, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, false
	}
	key := keyOf(s.device)
	former = r.sessions[key]
	r.sessions[key] = s
	sessionCount.Set(float64(len(r.sessions)))
	return former, true
}

// remove takes s out, unless another has taken its place.
func (r *registry) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key := keyOf(s.device); r.sessions[key] == s {
		delete(r.sessions, key)
	}
	sessionCount.Set(float64(len(r.sessions)))
}

// drain returns all sessions and takes no more.
func (r *registry) drain() []*session {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.all()
}

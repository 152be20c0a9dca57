// Package objects keeps the ConfigMaps and Secrets that pods use in memory, by one watch per object
// that is shared by all pods using it and ends with the last of them. No list over a namespace or the
// cluster is ever made. What the objects are used for belongs elsewhere.
package objects

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"

	"arhat.dev/aranya/pkg/controller/pod/resolve"
)

// User of objects; a pod.
type User comparable

// DefaultLimit is how many objects are watched at most, see New.
const DefaultLimit = 50000

// Manager keeps the objects in use. All methods may be called concurrently.
type Manager[U User] struct {
	client  kubernetes.Interface
	changed func(users []U)
	limit   int

	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	items map[resolve.Reference]*item[U]
	uses  map[U]sets.Set[resolve.Reference]
	// watched counts the items that are watched.
	watched int
}

// item is one watched object.
type item[U User] struct {
	users sets.Set[U]
	stop  context.CancelFunc
	// watched is not set for an item beyond the limit.
	watched bool
	// known is set once the object was looked up.
	known  bool
	object runtime.Object // nil: does not exist
	err    error          // the last failed look-up, until one succeeds
	// newcomers wait until an immutable object, whose watch has ended, was looked up again: another of its
	// name may have taken its place. The other users go on with what is known. Nil unless that is being done.
	newcomers sets.Set[U]
}

// New returns a Manager that watches nothing yet. It calls changed, which must be quick, with the
// users of an object that was looked up or has changed. It watches at most limit objects; further ones
// are errors until others are released. Close must be called in the end.
func New[U User](ctx context.Context, client kubernetes.Interface, limit int, changed func(users []U)) *Manager[U] {
	ctx, stop := context.WithCancel(ctx)
	return &Manager[U]{
		client: client, changed: changed, limit: limit, ctx: ctx, stop: stop,
		items: map[resolve.Reference]*item[U]{}, uses: map[U]sets.Set[resolve.Reference]{},
	}
}

// Close ends all watches and waits for them.
func (m *Manager[U]) Close() {
	m.stop()
	m.running.Wait()
}

// Use says which objects a user uses from now on. What no user uses any more is forgotten. It returns false
// if what is known of them may be of before this user's time: changed tells when it is up to date.
func (m *Manager[U]) Use(user U, refs sets.Set[resolve.Reference]) (upToDate bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	upToDate = true
	old := m.uses[user]
	for ref := range refs {
		it := m.items[ref]
		switch {
		case it == nil:
			it = &item[U]{users: sets.New[U](), stop: func() {}}
			m.items[ref] = it
		case immutable(it.object) && !it.users.Has(user):
			it = m.renewLocked(ref, it)
			it.newcomers.Insert(user)
		}
		it.users.Insert(user)
		if !it.watched {
			m.watchLocked(ref, it)
		}
		upToDate = upToDate && !it.newcomers.Has(user)
	}
	for ref := range old.Difference(refs) {
		it := m.items[ref]
		it.users.Delete(user)
		it.newcomers.Delete(user)
		if it.users.Len() == 0 {
			it.stop()
			if it.watched {
				m.watched--
			}
			delete(m.items, ref)
		}
	}
	if refs.Len() == 0 {
		delete(m.uses, user)
		return upToDate
	}
	m.uses[user] = refs.Clone()
	return upToDate
}

// renewLocked looks an object up again whose watch has ended, unless that is being done.
func (m *Manager[U]) renewLocked(ref resolve.Reference, it *item[U]) *item[U] {
	if it.newcomers != nil {
		return it
	}
	fresh := &item[U]{users: it.users, stop: it.stop, known: true, object: it.object, newcomers: sets.New[U]()}
	m.items[ref] = fresh
	m.watched--
	m.watchLocked(ref, fresh)
	return fresh
}

// ConfigMap implements resolve.Objects for ConfigMaps in use.
func (m *Manager[U]) ConfigMap(namespace, name string) (*corev1.ConfigMap, error) {
	object, err := m.get(resolve.Reference{Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return object.(*corev1.ConfigMap), nil
}

// Secret implements resolve.Objects for Secrets in use.
func (m *Manager[U]) Secret(namespace, name string) (*corev1.Secret, error) {
	object, err := m.get(resolve.Reference{Secret: true, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return object.(*corev1.Secret), nil
}

func (m *Manager[U]) get(ref resolve.Reference) (runtime.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	it := m.items[ref]
	switch {
	case it == nil:
		return nil, fmt.Errorf("%s is not in use", describe(ref))
	case it.known && it.object == nil:
		return nil, apierrors.NewNotFound(resource(ref), ref.Name)
	case it.known:
		return it.object, nil
	case it.err != nil:
		return nil, it.err
	}
	return nil, resolve.ErrPending
}

// update records what is known of an object and tells the users whom change returns, unless it was
// released meanwhile.
func (m *Manager[U]) update(ref resolve.Reference, it *item[U], change func() sets.Set[U]) {
	m.mu.Lock()
	if m.items[ref] != it {
		m.mu.Unlock()
		return
	}
	users := change().UnsortedList()
	m.mu.Unlock()
	m.changed(users)
}

func describe(ref resolve.Reference) string {
	return fmt.Sprintf("%s %s/%s", resource(ref).Resource, ref.Namespace, ref.Name)
}

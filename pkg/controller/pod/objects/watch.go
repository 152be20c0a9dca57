package objects

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/controller/pod/resolve"
)

// watchTimeout is how long one watch request lasts at least. There are many of them, so it is longer
// than usual.
const watchTimeout = 30 * time.Minute

// watchLocked starts to watch an object, unless that would exceed the limit: then the next Use tries
// again.
func (m *Manager[U]) watchLocked(ref resolve.Reference, it *item[U]) {
	if m.watched >= m.limit {
		it.err = fmt.Errorf("%s is not watched: aranya watches %d ConfigMaps and Secrets already, which is the limit", describe(ref), m.limit)
		return
	}
	it.watched, it.err = true, nil
	m.watched++
	ctx, stop := context.WithCancel(m.ctx)
	it.stop = stop
	logger := klog.FromContext(ctx)
	reflector := cache.NewReflectorWithOptions(
		cache.ToListWatcherWithWatchListSemantics(m.listWatch(ref, it), m.client),
		expected(ref), &slot[U]{manager: m, ref: ref, item: it},
		cache.ReflectorOptions{Logger: &logger, Name: describe(ref), MinWatchTimeout: watchTimeout},
	)
	m.running.Go(func() { reflector.RunWithContext(ctx) })
}

// listWatch restricts list and watch to one object, so that RBAC can do so as well.
func (m *Manager[U]) listWatch(ref resolve.Reference, it *item[U]) *cache.ListWatch {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, ref.Name).String()
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			list, err := m.list(ctx, ref, options)
			m.failed(ctx, ref, it, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			w, err := m.watch(ctx, ref, options)
			m.failed(ctx, ref, it, err)
			return w, err
		},
	}
}

func (m *Manager[U]) list(ctx context.Context, ref resolve.Reference, options metav1.ListOptions) (runtime.Object, error) {
	if ref.Secret {
		return m.client.CoreV1().Secrets(ref.Namespace).List(ctx, options)
	}
	return m.client.CoreV1().ConfigMaps(ref.Namespace).List(ctx, options)
}

func (m *Manager[U]) watch(ctx context.Context, ref resolve.Reference, options metav1.ListOptions) (watch.Interface, error) {
	if ref.Secret {
		return m.client.CoreV1().Secrets(ref.Namespace).Watch(ctx, options)
	}
	return m.client.CoreV1().ConfigMaps(ref.Namespace).Watch(ctx, options)
}

// failed tells the users of an object that was never found yet why it is not there. Once known, an
// object stays known: the reflector tries again.
func (m *Manager[U]) failed(ctx context.Context, ref resolve.Reference, it *item[U], err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	m.update(ref, it, func() sets.Set[U] {
		it.err = fmt.Errorf("look up %s: %w", describe(ref), err)
		return it.users
	})
}

// slot is the store of a reflector for one object.
type slot[U User] struct {
	manager *Manager[U]
	ref     resolve.Reference
	item    *item[U]
}

var _ cache.ReflectorStore = &slot[string]{}

// Add implements cache.ReflectorStore.
func (s *slot[U]) Add(object any) error {
	s.set(object)
	return nil
}

// Update implements cache.ReflectorStore.
func (s *slot[U]) Update(object any) error {
	s.set(object)
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *slot[U]) Delete(any) error {
	s.set(nil)
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *slot[U]) Replace(list []any, _ string) error {
	for _, object := range list {
		if accessor, err := meta.Accessor(object); err == nil && accessor.GetName() == s.ref.Name {
			s.set(object)
			return nil
		}
	}
	s.set(nil)
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *slot[U]) Resync() error { return nil }

func (s *slot[U]) set(object any) {
	found, _ := object.(runtime.Object)
	if found != nil {
		if accessor, err := meta.Accessor(found); err == nil {
			if accessor.GetName() != s.ref.Name {
				return
			}
			accessor.SetManagedFields(nil)
		}
	}
	s.manager.update(s.ref, s.item, func() sets.Set[U] {
		tell := s.item.users
		if s.item.newcomers != nil && same(s.item.object, found) {
			tell = s.item.newcomers
		}
		s.item.known, s.item.object, s.item.err, s.item.newcomers = true, found, nil, nil
		if immutable(found) {
			s.item.stop() // it cannot change any more
		}
		return tell
	})
}

// same says whether an immutable object that was looked up again is what it was: as a rule it is, and
// thousands of users need not hear of that.
func same(before, now runtime.Object) bool {
	a, errA := meta.Accessor(before)
	b, errB := meta.Accessor(now)
	return errA == nil && errB == nil && a.GetUID() == b.GetUID()
}

func immutable(object runtime.Object) bool {
	switch o := object.(type) {
	case *corev1.ConfigMap:
		return ptr.Deref(o.Immutable, false)
	case *corev1.Secret:
		return ptr.Deref(o.Immutable, false)
	}
	return false
}

func expected(ref resolve.Reference) runtime.Object {
	if ref.Secret {
		return &corev1.Secret{}
	}
	return &corev1.ConfigMap{}
}

func resource(ref resolve.Reference) schema.GroupResource {
	if ref.Secret {
		return corev1.Resource("secret")
	}
	return corev1.Resource("configmap")
}

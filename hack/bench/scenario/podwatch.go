package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/pkg/controller/queue"
)

// States that one can wait for. A pod that is none of these exists, and does not run.
const (
	podGone    = "gone"
	podRunning = string(corev1.PodRunning)
)

// podWatch follows pods.
type podWatch struct {
	mu      sync.Mutex
	states  map[string]string
	waiting map[string]chan struct{} // closed when the state of the pod has changed
}

// watchPods starts to follow the pods of simulated devices, until ctx ends.
func watchPods(ctx context.Context, r *harness.Run) (*podWatch, error) {
	w := &podWatch{states: map[string]string{}, waiting: map[string]chan struct{}{}}
	client, err := r.NewKube()
	if err != nil {
		return nil, err
	}
	informer := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(local.Namespace), informers.WithTransform(keepPhase)).
		Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { w.handle(obj, false) },
		UpdateFunc: func(_, obj any) { w.handle(obj, false) },
		DeleteFunc: func(obj any) { w.handle(obj, true) },
	}); err != nil {
		return nil, err
	}
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil, errors.New("the watch of pods did not begin")
	}
	return w, nil
}

// keepPhase drops what podWatch does not look at.
func keepPhase(obj any) (any, error) {
	if p, ok := obj.(*corev1.Pod); ok {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion},
			Status:     corev1.PodStatus{Phase: p.Status.Phase},
		}, nil
	}
	return obj, nil
}

func (w *podWatch) handle(obj any, deleted bool) {
	p, ok := queue.Deleted(obj).(*corev1.Pod)
	if !ok || !strings.HasPrefix(p.Name, simulatedPrefix) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.states[p.Name] = string(p.Status.Phase); deleted {
		delete(w.states, p.Name)
	}
	if c := w.waiting[p.Name]; c != nil {
		close(c)
		delete(w.waiting, p.Name)
	}
}

// state returns the state of a pod, and what is closed when that has changed.
func (w *podWatch) state(name string) (string, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[name] == nil {
		w.waiting[name] = make(chan struct{})
	}
	if state, ok := w.states[name]; ok {
		return state, w.waiting[name]
	}
	return podGone, w.waiting[name]
}

// wait waits until a pod is in a state.
func (w *podWatch) wait(ctx context.Context, name, want string) error {
	for {
		state, changed := w.state(name)
		if state == want {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("pod %s is %s, not %s: %w", name, state, want, context.Cause(ctx))
		}
	}
}

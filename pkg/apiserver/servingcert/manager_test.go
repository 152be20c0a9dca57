package servingcert

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2/ktesting"
	clocktesting "k8s.io/utils/clock/testing"

	"arhat.dev/aranya/test/framework/eventually"
)

const namespace = "aranya-system"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newManager(t *testing.T, kube kubernetes.Interface, clock *clocktesting.FakePassiveClock) *Manager {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	m, err := New(ctx, Config{Kube: kube, Namespace: namespace, DNSNames: dnsNames, IPs: ips, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.queue.ShutDown)
	return m
}

// start runs f until the end of the test, and waits for it then.
func start(t *testing.T, f func(context.Context)) {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// watching returns a channel that is closed when a watch has begun. (What happens between the list and
// the watch of an informer is lost with a fake client.)
func watching(fake *k8stesting.Fake, tracker k8stesting.ObjectTracker, resource string) <-chan struct{} {
	began := make(chan struct{})
	var once sync.Once
	fake.PrependWatchReactor(resource, func(action k8stesting.Action) (bool, watch.Interface, error) {
		w, err := tracker.Watch(action.GetResource(), action.GetNamespace())
		once.Do(func() { close(began) })
		return true, w, err
	})
	return began
}

func TestReplicasAgreeOnOneCA(t *testing.T) {
	kube := fake.NewClientset()
	clock := clocktesting.NewFakePassiveClock(epoch)
	managers := make([]*Manager, 8)
	var wg sync.WaitGroup
	for i := range managers {
		wg.Go(func() { managers[i] = newManager(t, kube, clock) })
	}
	wg.Wait()
	for i, m := range managers {
		if !bytes.Equal(m.Bundle(), managers[0].Bundle()) {
			t.Errorf("replica %d has another bundle than replica 0", i)
		}
		verify(t, managers[0].Bundle(), m.leaf, epoch)
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(epoch)
	m := newManager(t, fake.NewClientset(), clock)
	first, _ := m.CurrentCertKeyContent()

	clock.SetTime(epoch.Add(leafLifetime / 2))
	if _, err := m.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if same, _ := m.CurrentCertKeyContent(); !bytes.Equal(first, same) {
		t.Error("the certificate was replaced after half of its life")
	}

	told := &countingListener{}
	m.AddListener(told)
	clock.SetTime(epoch.Add(leafLifetime * 3 / 4))
	again, err := m.sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if renewed, _ := m.CurrentCertKeyContent(); bytes.Equal(first, renewed) {
		t.Error("the certificate was not renewed after three quarters of its life")
	}
	if told.count != 1 {
		t.Errorf("the listener was told %d times, want once", told.count)
	}
	if again <= 0 || again > leafLifetime {
		t.Errorf("looks again after %s", again)
	}
}

type countingListener struct{ count int }

func (l *countingListener) Enqueue() { l.count++ }

func TestDeletedSecretMakesANewCA(t *testing.T) {
	kube := fake.NewClientset()
	m := newManager(t, kube, clocktesting.NewFakePassiveClock(epoch))
	old := m.Bundle()
	began := watching(&kube.Fake, kube.Tracker(), "secrets")
	start(t, m.Run)
	<-began
	if err := kube.CoreV1().Secrets(namespace).Delete(t.Context(), SecretName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "a new CA", func() bool { return !bytes.Equal(m.Bundle(), old) })
	m.mu.RLock()
	served, bundle := m.leaf, m.bundle
	m.mu.RUnlock()
	verify(t, bundle, served, epoch)
}

func TestAnotherReplicasRotationIsFollowed(t *testing.T) {
	kube := fake.NewClientset()
	clock := clocktesting.NewFakePassiveClock(epoch)
	a := newManager(t, kube, clock)
	// Its clock stands still: it follows, and never rotates itself. (The fake client knows no conflicts.)
	b := newManager(t, kube, clocktesting.NewFakePassiveClock(epoch))
	began := watching(&kube.Fake, kube.Tracker(), "secrets")
	start(t, b.Run)
	<-began
	old := b.Bundle()
	later := epoch.Add(caLifetime * 3 / 4)
	clock.SetTime(later)
	if _, err := a.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "replica b follows", func() bool { return bytes.Equal(a.Bundle(), b.Bundle()) })
	if !bytes.HasPrefix(b.Bundle(), old) || len(b.Bundle()) <= len(old) {
		t.Error("the bundle must hold the old CA and the next one")
	}
}

func TestNewErrors(t *testing.T) {
	secrets := schema.GroupResource{Resource: "secrets"}
	for name, test := range map[string]struct {
		verb string
		err  error
		have *corev1.Secret
		want string
	}{
		"no namespace": {
			verb: "create", err: apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, namespace),
			want: `aranya's own namespace "aranya-system" does not exist: create it, or name another with --namespace`,
		},
		"forbidden": {
			verb: "get", err: apierrors.NewForbidden(secrets, SecretName, nil),
			want: "get the serving CA: ",
		},
		"unusable Secret": {
			have: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: SecretName}},
			want: "the Secret aranya-system/aranya-serving-ca cannot be used (delete it to have a new CA made): tls.crt is missing",
		},
	} {
		t.Run(name, func(t *testing.T) {
			kube := fake.NewClientset()
			if test.have != nil {
				kube = fake.NewClientset(test.have)
			}
			if test.err != nil {
				kube.PrependReactor(test.verb, "secrets", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, test.err })
			}
			_, err := New(t.Context(), Config{Kube: kube, Namespace: namespace, DNSNames: dnsNames})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

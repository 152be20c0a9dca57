package servingcert

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/controller/queue"
)

// Config configures a Manager.
type Config struct {
	// Kube is the main cluster.
	Kube kubernetes.Interface
	// Namespace of the Secret.
	Namespace string
	// DNSNames and IPs go into the serving certificate. There must be a DNS name.
	DNSNames []string
	IPs      []net.IP
	// Clock is the real one if nil.
	Clock clock.PassiveClock
}

// Manager holds the serving certificate in force. It is a dynamiccertificates.CertKeyContentProvider.
// All methods may be called concurrently.
type Manager struct {
	cfg   Config
	queue workqueue.TypedRateLimitingInterface[string]

	syncing sync.Mutex // one sync at a time, so that an older state never replaces a newer one

	mu        sync.RWMutex
	bundle    []byte
	leaf      *leaf
	listeners []dynamiccertificates.Listener
}

var _ dynamiccertificates.CertKeyContentProvider = &Manager{}

// New loads the CA, or creates it, and issues a first certificate.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	m := &Manager{
		cfg: cfg,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](time.Second, 5*time.Minute),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: "serving-certificate"}),
	}
	if _, err := m.sync(ctx); err != nil {
		m.queue.ShutDown()
		return nil, err
	}
	return m, nil
}

// Name implements CertKeyContentProvider.
func (m *Manager) Name() string { return "aranya-serving-cert" }

// CurrentCertKeyContent implements CertKeyContentProvider.
func (m *Manager) CurrentCertKeyContent() (cert, key []byte) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.leaf.certPEM, m.leaf.keyPEM
}

// AddListener implements CertKeyContentProvider. Listeners are also told of a new bundle.
func (m *Manager) AddListener(l dynamiccertificates.Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listeners = append(m.listeners, l)
}

// Bundle returns the CAs, in PEM, that clients must trust now.
func (m *Manager) Bundle() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.bundle
}

// Run renews certificate and CA until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	informer := coreinformers.NewFilteredSecretInformer(m.cfg.Kube, m.cfg.Namespace, 0, cache.Indexers{},
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, SecretName).String()
		})
	wake := func(any) { m.queue.Add(SecretName) }
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    wake,
		UpdateFunc: func(_, obj any) { wake(obj) },
		DeleteFunc: wake,
	}); err != nil {
		klog.FromContext(ctx).Error(err, "Changes of the serving CA by others will be noticed late")
	}

	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { informer.RunWithContext(ctx) })
	m.queue.Add(SecretName)
	queue.Run(ctx, m.queue, 1, m.work)
}

func (m *Manager) work(ctx context.Context, _ string) (again time.Duration, err error) {
	if again, err = m.sync(ctx); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Could not check the serving certificate; it goes on being served, and this is tried again")
	}
	return again, err
}

// sync brings Secret, bundle and certificate up to date and says when to look again.
func (m *Manager) sync(ctx context.Context) (again time.Duration, err error) {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	now := m.cfg.Clock.Now()
	s, err := m.loadOrCreate(ctx, now)
	if err != nil {
		return 0, err
	}
	if err := m.adopt(ctx, s, now); err != nil {
		return 0, err
	}
	m.mu.RLock()
	next := renewAt(m.leaf.cert)
	m.mu.RUnlock()
	if step := s.nextStep(); step.Before(next) {
		next = step
	}
	return max(next.Sub(now), time.Second), nil
}

// loadOrCreate returns the state that the Secret has after this call. Replicas that race agree on one:
// the Secret is created once, and updated only from the version that was read.
func (m *Manager) loadOrCreate(ctx context.Context, now time.Time) (*state, error) {
	secrets := m.cfg.Kube.CoreV1().Secrets(m.cfg.Namespace)
	secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh, err := m.create(ctx, now)
		if err == nil || !apierrors.IsAlreadyExists(err) {
			return fresh, err
		}
		secret, err = secrets.Get(ctx, SecretName, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("get the serving CA: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("get the serving CA: %w", err)
	}
	s, err := parseState(secret)
	if err != nil {
		return nil, fmt.Errorf("the Secret %s/%s cannot be used (delete it to have a new CA made): %w", m.cfg.Namespace, SecretName, err)
	}
	changed, err := s.advance(now)
	if err != nil || !changed {
		return s, err
	}
	return s, m.update(ctx, secret, s)
}

func (m *Manager) create(ctx context.Context, now time.Time) (*state, error) {
	s, err := newState(now)
	if err != nil {
		return nil, err
	}
	secret, err := s.secret(m.cfg.Namespace)
	if err != nil {
		return nil, err
	}
	_, err = m.cfg.Kube.CoreV1().Secrets(m.cfg.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil, err
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("aranya's own namespace %q does not exist: create it, or name another with --namespace: %w", m.cfg.Namespace, err)
	case err != nil:
		return nil, fmt.Errorf("store the serving CA: %w", err)
	}
	klog.FromContext(ctx).Info("Created a serving CA", "secret", klog.KObj(secret), "notAfter", s.current.cert.NotAfter)
	return s, nil
}

func (m *Manager) update(ctx context.Context, old *corev1.Secret, s *state) error {
	secret, err := s.secret(m.cfg.Namespace)
	if err != nil {
		return err
	}
	updated := old.DeepCopy()
	updated.Data = secret.Data
	if _, err := m.cfg.Kube.CoreV1().Secrets(m.cfg.Namespace).Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("store the next step of the serving CA's rotation: %w", err)
	}
	klog.FromContext(ctx).Info("Rotated the serving CA", "secret", klog.KObj(old), "signer", s.current.cert.Subject.CommonName,
		"next", s.next != nil, "previous", s.previous != nil)
	return nil
}

// adopt makes a state the one in force, and issues a certificate if the one in use will not do.
func (m *Manager) adopt(ctx context.Context, s *state, now time.Time) error {
	bundle, err := s.bundle()
	if err != nil {
		return err
	}
	m.mu.Lock()
	changed := !bytes.Equal(m.bundle, bundle)
	m.bundle = bundle
	if !m.leaf.usable(now, s.current.cert) {
		fresh, err := s.current.issue(now, m.cfg.DNSNames, m.cfg.IPs)
		if err != nil {
			m.mu.Unlock()
			return err
		}
		m.leaf, changed = fresh, true
		klog.FromContext(ctx).Info("Issued a serving certificate", "names", m.cfg.DNSNames, "notAfter", fresh.cert.NotAfter,
			"signer", s.current.cert.Subject.CommonName)
	}
	listeners := m.listeners
	m.mu.Unlock()
	if changed {
		for _, l := range listeners {
			l.Enqueue()
		}
	}
	return nil
}

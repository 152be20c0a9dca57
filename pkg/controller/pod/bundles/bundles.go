// Package bundles finds the trust anchors that pods take from ClusterTrustBundles. Nothing is watched before
// the first pod asks; from then on all bundles of the cluster are, of which there are few. What they are put
// into belongs elsewhere.
package bundles

import (
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"arhat.dev/aranya/pkg/controller/pod/resolve"
	"arhat.dev/aranya/pkg/controller/queue"
)

// Manager finds trust anchors. Its methods may be called concurrently.
type Manager struct {
	client  kubernetes.Interface
	changed func()

	ctx     context.Context
	stop    context.CancelFunc
	start   func()
	running sync.WaitGroup
	lister  listers.ClusterTrustBundleLister
	synced  cache.InformerSynced

	mu  sync.Mutex
	err error // why the bundles cannot be listed
}

var _ resolve.Bundles = &Manager{}

// New returns a Manager that watches nothing yet. It calls changed, which must be quick, when what it has
// said may not be true any more. Close must be called in the end.
func New(ctx context.Context, client kubernetes.Interface, changed func()) *Manager {
	ctx, stop := context.WithCancel(ctx)
	m := &Manager{client: client, changed: changed, ctx: ctx, stop: stop}
	m.start = sync.OnceFunc(m.watch)
	return m
}

// Close ends the watch and waits for it.
func (m *Manager) Close() {
	m.stop()
	m.running.Wait()
}

func (m *Manager) watch() {
	bundles := informers.NewSharedInformerFactoryWithOptions(m.client, 0, informers.WithTransform(queue.StripManagedFields)).
		Certificates().V1().ClusterTrustBundles()
	informer := bundles.Informer()
	m.lister, m.synced = bundles.Lister(), informer.HasSynced
	// A new informer refuses neither of them.
	_ = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if !m.synced() {
			m.fail(err)
		}
		if !apierrors.IsNotFound(err) { // that is told in the pods that ask
			cache.DefaultWatchErrorHandler(ctx, r, err)
		}
	})
	registration, _ := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { m.notify() }, UpdateFunc: func(any, any) { m.notify() }, DeleteFunc: func(any) { m.notify() },
	})
	m.running.Go(func() { informer.RunWithContext(m.ctx) })
	m.running.Go(func() {
		if cache.WaitForCacheSync(m.ctx.Done(), registration.HasSynced) { // there may be no bundle at all
			m.fail(nil)
		}
	})
}

// fail notes why the bundles cannot be listed, or that they can.
func (m *Manager) fail(err error) {
	m.mu.Lock()
	news := fmt.Sprint(m.err) != fmt.Sprint(err) || err == nil
	m.err = err
	m.mu.Unlock()
	if news {
		m.changed()
	}
}

// notify tells of a change; those that make up the first list are told of together.
func (m *Manager) notify() {
	if m.synced() {
		m.changed()
	}
}

// Anchors implements resolve.Bundles. The errors are in the kubelet's words.
func (m *Manager) Anchors(source *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	m.start()
	m.mu.Lock()
	err := m.err
	m.mu.Unlock()
	switch {
	case apierrors.IsNotFound(err):
		return nil, errors.New("the cluster does not serve ClusterTrustBundles of certificates.k8s.io/v1 (Kubernetes 1.37 or newer does)")
	case err != nil:
		return nil, fmt.Errorf("while listing ClusterTrustBundles: %w", err)
	case !m.synced():
		return nil, resolve.ErrPending
	}
	found, err := m.find(source)
	if err != nil {
		return nil, err
	}
	return normalize(found), nil
}

func (m *Manager) find(source *corev1.ClusterTrustBundleProjection) ([]*certificatesv1.ClusterTrustBundle, error) {
	optional := source.Optional != nil && *source.Optional
	switch {
	case source.Name != nil:
		bundle, err := m.lister.Get(*source.Name)
		if apierrors.IsNotFound(err) && optional {
			return nil, nil
		} else if err != nil {
			return nil, fmt.Errorf("while getting ClusterTrustBundle: %w", err)
		}
		return []*certificatesv1.ClusterTrustBundle{bundle}, nil
	case source.SignerName == nil:
		return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	selector, err := metav1.LabelSelectorAsSelector(source.LabelSelector) // without one nothing matches
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	all, err := m.lister.List(selector)
	if err != nil {
		return nil, fmt.Errorf("while listing ClusterTrustBundles: %w", err)
	}
	found := slices.DeleteFunc(all, func(b *certificatesv1.ClusterTrustBundle) bool { return b.Spec.SignerName != *source.SignerName })
	if len(found) == 0 && !optional {
		return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return found, nil
}

// normalize puts the certificates of all bundles into one file, each once, and in an order that stays the
// same: another one would be news for the device.
func normalize(bundles []*certificatesv1.ClusterTrustBundle) []byte {
	var anchors []string
	for _, bundle := range bundles {
		for block, rest := pem.Decode([]byte(bundle.Spec.TrustBundle)); block != nil; block, rest = pem.Decode(rest) {
			anchors = append(anchors, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})))
		}
	}
	slices.SortFunc(anchors, cmp.Compare)
	var file []byte
	for _, anchor := range slices.Compact(anchors) {
		file = append(file, anchor...)
	}
	return file
}

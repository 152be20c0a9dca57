// Package certificate keeps the TLS certificates that EdgeDevices name by
// spec.connectivity.grpcConfig.tlsSecretRef: the gateway serves them to HTTPS clients that ask for one
// of their host names. It follows the EdgeDevices and the Secrets.
package certificate

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/pod/objects"
	"arhat.dev/aranya/pkg/controller/pod/resolve"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/edge/gateway"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

const (
	workers = 2
	// ReasonInvalid is the reason of the event on an EdgeDevice whose Secret cannot be used.
	ReasonInvalid = "InvalidSecret"
	// ReasonNotServed is that of one that comes second for a host name.
	ReasonNotServed = "CertificateNotServed"
	// ReasonExpired is that of one whose certificate clients refuse.
	ReasonExpired = "CertificateExpired"
)

// Config of the Store.
type Config struct {
	Kube    kubernetes.Interface
	Devices cache.SharedIndexInformer
	Lister  aranyalisters.EdgeDeviceLister
	Events  *events.Recorder
	Clock   clock.WithTicker
}

// Store holds the certificates. All methods may be called concurrently.
type Store struct {
	config  Config
	objects *objects.Manager[types.NamespacedName]
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu     sync.RWMutex
	claims map[types.NamespacedName]claim
	byName map[string][]claim // the first is served
}

// claim is what one device brings. Of two that claim a name, be it by a wildcard, the older device has it.
type claim struct {
	device      gateway.Device
	created     time.Time
	certificate *tls.Certificate
}

func byAge(a, b claim) int {
	return cmp.Or(a.created.Compare(b.created), strings.Compare(a.device.String(), b.device.String()))
}

// eclipse is that of two claims one is not served.
type eclipse struct{ of, by gateway.Device }

// New returns a Store that is empty until Run. Its context ends all watches.
func New(ctx context.Context, config Config) (*Store, error) {
	s := &Store{
		config: config, queue: queue.New[types.NamespacedName]("certificates", config.Clock),
		claims: map[types.NamespacedName]claim{}, byName: map[string][]claim{},
	}
	s.objects = objects.New(ctx, config.Kube, objects.DefaultLimit, func(users []types.NamespacedName) {
		for _, key := range users {
			s.queue.Add(key)
		}
	})
	_, err := config.Devices.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if ed, ok := object.(*aranya.EdgeDevice); ok && secretOf(ed) != "" {
				s.notice(ed)
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*aranya.EdgeDevice)
			ed, ok2 := after.(*aranya.EdgeDevice)
			if ok1 && ok2 && (old.UID != ed.UID || secretOf(old) != secretOf(ed)) {
				s.notice(ed)
			}
		},
		DeleteFunc: s.notice,
	})
	return s, err
}

func (s *Store) notice(object any) {
	if name, err := cache.DeletionHandlingObjectToName(object); err == nil {
		s.queue.Add(name.AsNamespacedName())
	}
}

// Run follows devices and Secrets until ctx ends.
func (s *Store) Run(ctx context.Context) {
	defer s.objects.Close()
	queue.Run(ctx, s.queue, workers, s.sync)
}

// Get returns the certificate for a host name, nil if there is none.
func (s *Store) Get(serverName string) *tls.Certificate {
	name := strings.ToLower(strings.TrimSuffix(serverName, "."))
	s.mu.RLock()
	defer s.mu.RUnlock()
	var claims []claim
	if exact := s.byName[name]; len(exact) > 0 {
		claims = append(claims, exact[0])
	}
	if _, parent, ok := strings.Cut(name, "."); ok && len(s.byName["*."+parent]) > 0 {
		claims = append(claims, s.byName["*."+parent][0])
	}
	if len(claims) == 0 {
		return nil
	}
	return slices.MinFunc(claims, byAge).certificate
}

// secretOf is the Secret that a device names, "" for none.
func secretOf(ed *aranya.EdgeDevice) string {
	c := ed.Spec.Connectivity
	if c.Method == aranya.ConnectivityMQTT || c.GRPCConfig == nil || c.GRPCConfig.TLSSecretRef == nil {
		return ""
	}
	return c.GRPCConfig.TLSSecretRef.Name
}

func (s *Store) sync(_ context.Context, key types.NamespacedName) (time.Duration, error) {
	ed, err := s.config.Lister.EdgeDevices(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	if ed == nil || secretOf(ed) == "" {
		s.objects.Use(key, nil)
		s.set(key, nil)
		return 0, nil
	}
	name := secretOf(ed)
	s.objects.Use(key, sets.New(resolve.Reference{Secret: true, Namespace: key.Namespace, Name: name}))
	secret, err := s.objects.Secret(key.Namespace, name)
	if errors.Is(err, resolve.ErrPending) {
		return 0, nil // comes again with the Secret
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	device := gateway.DeviceOf(ed)
	var certificate *tls.Certificate
	if err == nil {
		certificate, err = pair(secret)
	}
	if err != nil {
		s.set(key, nil)
		s.config.Events.Device(device, corev1.EventTypeWarning, ReasonInvalid,
			"Secret %s, named by spec.connectivity.grpcConfig.tlsSecretRef, cannot be used; the gateway's own certificate is served instead: %v", name, err)
		return 0, nil
	}
	for e, names := range s.set(key, &claim{device: device, created: ed.CreationTimestamp.Time, certificate: certificate}) {
		by := "an EdgeDevice of another namespace" // which is not told who there is
		if e.by.Namespace == e.of.Namespace {
			by = "EdgeDevice " + e.by.Name
		}
		s.config.Events.Device(e.of, corev1.EventTypeWarning, ReasonNotServed,
			"The certificate that spec.connectivity.grpcConfig.tlsSecretRef names is not served for %s: %s, which is older, has one for the same",
			strings.Join(names, ", "), by)
	}
	left := certificate.Leaf.NotAfter.Sub(s.config.Clock.Now())
	if left <= 0 {
		s.config.Events.Device(device, corev1.EventTypeWarning, ReasonExpired,
			"The certificate in Secret %s, named by spec.connectivity.grpcConfig.tlsSecretRef, expired at %s; it is served all the same, and clients refuse it",
			name, certificate.Leaf.NotAfter.UTC().Format(time.RFC3339))
		return 0, nil
	}
	return left, nil // to tell when it has expired
}

func pair(secret *corev1.Secret) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, err
	}
	if len(c.Leaf.DNSNames) == 0 {
		return nil, errors.New("the certificate has no DNS names as subject alternative names")
	}
	return &c, nil
}

// set replaces what a device brings, by nothing if c is nil. It returns the names for which that is not served, and
// those for which another one's is served no more.
func (s *Store) set(key types.NamespacedName, c *claim) map[eclipse][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	served := map[string]gateway.Device{}
	if c != nil {
		for _, name := range c.certificate.Leaf.DNSNames {
			if claims := s.byName[strings.ToLower(name)]; len(claims) > 0 {
				served[strings.ToLower(name)] = claims[0].device
			}
		}
	}
	if former, ok := s.claims[key]; ok {
		for _, name := range former.certificate.Leaf.DNSNames {
			name = strings.ToLower(name)
			left := slices.DeleteFunc(slices.Clone(s.byName[name]), func(c claim) bool { return links.Key(c.device) == key })
			if s.byName[name] = left; len(left) == 0 {
				delete(s.byName, name)
			}
		}
		delete(s.claims, key)
	}
	if c == nil {
		return nil
	}
	s.claims[key] = *c
	eclipsed := map[eclipse][]string{}
	for _, name := range c.certificate.Leaf.DNSNames {
		name = strings.ToLower(name)
		claims := append(slices.Clone(s.byName[name]), *c)
		slices.SortStableFunc(claims, byAge)
		s.byName[name] = claims
		first := claims[0].device
		if former, ok := served[name]; first != c.device {
			eclipsed[eclipse{c.device, first}] = append(eclipsed[eclipse{c.device, first}], name)
		} else if ok && links.Key(former) != key {
			eclipsed[eclipse{former, first}] = append(eclipsed[eclipse{former, first}], name)
		}
	}
	return eclipsed
}

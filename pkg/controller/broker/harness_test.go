package broker

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/controllertest"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBroker is a connection to no broker.
type fakeBroker struct {
	config mqtt.BrokerConfig
	done   chan struct{}
	lost   error
	end    sync.Once

	mu        sync.Mutex
	listeners map[string]mqtt.ListenOptions
	deny      map[string]error
}

func (b *fakeBroker) Listen(_ context.Context, ns string, o mqtt.ListenOptions) (net.Listener, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.deny[ns]; err != nil {
		return nil, err
	}
	b.listeners[ns] = o
	return &fakeListener{broker: b, namespace: ns}, nil
}

func (b *fakeBroker) Done() <-chan struct{} { return b.done }
func (b *fakeBroker) Err() error            { return b.lost }
func (b *fakeBroker) Close() error {
	b.end.Do(func() { close(b.done) })
	return nil
}

func (b *fakeBroker) lose(err error) {
	b.lost = err
	b.end.Do(func() { close(b.done) })
}

func (b *fakeBroker) namespaces() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for ns := range b.listeners {
		all = append(all, ns)
	}
	slices.Sort(all)
	return all
}

func (b *fakeBroker) admit(ns, namespace, name string) error {
	b.mu.Lock()
	o := b.listeners[ns]
	b.mu.Unlock()
	return o.Admit(namespace, name)
}

type fakeListener struct {
	net.Listener
	broker    *fakeBroker
	namespace string
}

func (l *fakeListener) Close() error {
	l.broker.mu.Lock()
	defer l.broker.mu.Unlock()
	delete(l.broker.listeners, l.namespace)
	return nil
}

// world is a pool with what it follows. It is its Gateway.
type world struct {
	*controllertest.World
	pool *Pool

	mu      sync.Mutex
	brokers []*fakeBroker // all connections ever made
	refuse  map[string]error
	deny    map[string]error
	checked map[string]bool // DeviceChanged was called
	refused int             // how often a connection was
	changed int             // how often a state was

	stopping chan struct{} // closed when the gateway stops
}

func (w *world) Serve(ctx context.Context, l net.Listener, _ gateway.Permit) error {
	select {
	case <-ctx.Done():
		return l.Close()
	case <-w.stopping:
		return errors.Join(gateway.ErrStopping, l.Close())
	}
}

func (w *world) Name() string { return "gateway" }

func (w *world) DeviceChanged(namespace, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checked[namespace+"/"+name] = true
}

func (w *world) connect(_ context.Context, c mqtt.BrokerConfig) (brokerConn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.refuse[c.Server]; err != nil {
		w.refused++
		return nil, err
	}
	b := &fakeBroker{config: c, done: make(chan struct{}), listeners: map[string]mqtt.ListenOptions{}, deny: w.deny}
	w.brokers = append(w.brokers, b)
	return b, nil
}

func (w *world) count(types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed++
}

// live returns the connections that are up.
func (w *world) live() []*fakeBroker {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.brokers), func(b *fakeBroker) bool {
		select {
		case <-b.done:
			return true
		default:
			return false
		}
	})
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	w := &world{
		World:  controllertest.New(t, objects...),
		refuse: map[string]error{}, deny: map[string]error{}, checked: map[string]bool{},
		stopping: make(chan struct{}),
	}
	var err error
	if w.pool, err = New(w.Ctx, Config{
		Kube: w.Kube, Devices: w.Devices, Lister: w.Lister, Clock: clock.RealClock{}, Changed: w.count,
	}); err != nil {
		t.Fatal(err)
	}
	w.pool.connect = w.connect
	w.pool.backoff = wait.Backoff{Duration: time.Millisecond, Factor: 2, Steps: 20, Cap: 20 * time.Millisecond}
	w.pool.SetGateway(w)
	w.Start(w.pool.Run)
	return w
}

// device creates or replaces an EdgeDevice.
func (w *world) device(namespace, name string, change func(*aranya.MQTTConfig)) {
	w.T.Helper()
	w.deviceOf(metav1.Time{}, namespace, name, change)
}

// deviceOf is device with a time of creation.
func (w *world) deviceOf(created metav1.Time, namespace, name string, change func(*aranya.MQTTConfig)) {
	w.T.Helper()
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(name), Generation: time.Now().UnixNano(), CreationTimestamp: created,
	}}
	if change != nil {
		ed.Spec.Connectivity = aranya.Connectivity{Method: aranya.ConnectivityMQTT, MQTTConfig: &aranya.MQTTConfig{Server: "broker:8883"}}
		change(ed.Spec.Connectivity.MQTTConfig)
	}
	w.Edge.Modify(ed) // or add it
}

func (w *world) state(namespace, name string) State {
	s, _ := w.pool.State(types.NamespacedName{Namespace: namespace, Name: name})
	return s
}

func plain(*aranya.MQTTConfig) {}

func withPassword(c *aranya.MQTTConfig) {
	c.ConnectPacket.Username, c.ConnectPacket.Password = "u", &aranya.LocalSecretReference{Name: "s"}
}

func secret(namespace string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s"}, Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s
}

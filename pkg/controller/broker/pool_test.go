package broker

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"
	"k8s.io/klog/v2/ktesting"
	clocktesting "k8s.io/utils/clock/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience of everything that a test waits for.
const patience = 20 * time.Second

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
	t    *testing.T
	ctx  context.Context
	kube *kubefake.Clientset
	edge *fcache.FakeControllerSource
	pool *Pool

	mu      sync.Mutex
	brokers []*fakeBroker // all connections ever made
	refuse  map[string]error
	deny    map[string]error
	checked map[string]bool // DeviceChanged was called

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

func (w *world) DeviceChanged(namespace, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checked[namespace+"/"+name] = true
}

func (w *world) connect(_ context.Context, c mqtt.BrokerConfig) (brokerConn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.refuse[c.Server]; err != nil {
		return nil, err
	}
	b := &fakeBroker{config: c, done: make(chan struct{}), listeners: map[string]mqtt.ListenOptions{}, deny: w.deny}
	w.brokers = append(w.brokers, b)
	return b, nil
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
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	w := &world{
		t: t, ctx: ctx, kube: kubefake.NewClientset(objects...), edge: fcache.NewFakeControllerSource(),
		refuse: map[string]error{}, deny: map[string]error{}, checked: map[string]bool{},
		stopping: make(chan struct{}),
	}
	devices := cache.NewSharedIndexInformer(w.edge, &aranya.EdgeDevice{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	var err error
	if w.pool, err = New(ctx, Config{
		Kube: w.kube, Devices: devices, Lister: aranyalisters.NewEdgeDeviceLister(devices.GetIndexer()), Replica: "r", Changed: func(types.NamespacedName) {},
	}); err != nil {
		t.Fatal(err)
	}
	w.pool.connect = w.connect
	w.pool.backoff = wait.Backoff{Duration: time.Millisecond, Factor: 2, Steps: 20, Cap: 20 * time.Millisecond}
	w.pool.SetGateway(w)
	var running sync.WaitGroup
	running.Go(func() { devices.RunWithContext(ctx) })
	cache.WaitForCacheSync(ctx.Done(), devices.HasSynced)
	running.Go(func() { w.pool.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		w.edge.Shutdown()
	})
	return w
}

func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("timed out waiting: %s", what)
		}
	}
}

// device creates or replaces an EdgeDevice.
func (w *world) device(namespace, name string, change func(*aranya.MQTTConfig)) {
	w.t.Helper()
	ed := &aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name), Generation: time.Now().UnixNano()}}
	if change != nil {
		ed.Spec.Connectivity = aranya.Connectivity{Method: aranya.ConnectivityMQTT, MQTTConfig: &aranya.MQTTConfig{Server: "broker:8883"}}
		change(ed.Spec.Connectivity.MQTTConfig)
	}
	w.edge.Modify(ed) // or add it
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

func TestOneClientPerBrokerAndCredential(t *testing.T) {
	w := newWorld(t, secret("a", map[string]string{"password": "p"}), secret("b", map[string]string{"password": "p"}), secret("c", map[string]string{"password": "q"}))
	for _, namespace := range []string{"a", "b", "c"} {
		for _, name := range []string{"d1", "d2"} {
			w.device(namespace, name, withPassword)
		}
	}
	w.device("a", "other-topic", func(c *aranya.MQTTConfig) { withPassword(c); c.MessageNamespace = "/x" })
	w.eventually("two clients with their subscriptions", func() bool {
		live := w.live()
		if len(live) != 2 {
			return false
		}
		for _, b := range live {
			want := []string{mqtt.DefaultMessageNamespace}
			if b.config.Password == "p" {
				want = append(want, "/x")
			}
			if !slices.Equal(b.namespaces(), want) || b.config.Username != "u" {
				return false
			}
		}
		return w.state("c", "d2").Connected && w.state("a", "other-topic").Connected
	})
	w.mu.Lock()
	made := len(w.brokers)
	w.mu.Unlock()
	if made != 2 {
		t.Errorf("%d connections were made", made)
	}
	// The last device takes its subscription, and its client, with it.
	w.device("a", "other-topic", nil)
	w.eventually("unsubscribed", func() bool {
		return !slices.ContainsFunc(w.live(), func(b *fakeBroker) bool { return len(b.namespaces()) != 1 })
	})
	w.device("c", "d1", nil)
	w.edge.Delete(&aranya.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "c", Name: "d2"}})
	w.eventually("one client left", func() bool { return len(w.live()) == 1 })
	if _, ok := w.pool.State(types.NamespacedName{Namespace: "c", Name: "d1"}); ok {
		t.Error("a device without a broker has a state of one")
	}
}

// Two clients with one client id would evict each other from the broker for ever.
func TestClientIDConflict(t *testing.T) {
	w := newWorld(t, secret("a", map[string]string{"password": "p"}), secret("b", map[string]string{"password": "q"}))
	chosen := func(c *aranya.MQTTConfig) { withPassword(c); c.ConnectPacket.ClientID = "mine" }
	w.device("a", "d1", chosen)
	w.device("a", "d2", chosen) // with the same settings
	w.eventually("connected", func() bool { return w.state("a", "d1").Connected && w.state("a", "d2").Connected })
	w.device("b", "d1", chosen)
	w.device("b", "elsewhere", func(c *aranya.MQTTConfig) { chosen(c); c.Server = "other:8883" })
	w.eventually("refused", func() bool { return w.state("b", "d1").Reason == ReasonClientIDConflict })
	if message := w.state("b", "d1").Message; !strings.Contains(message, "EdgeDevice a/d1") || !strings.Contains(message, `"mine"`) {
		t.Errorf("message %q", message)
	}
	w.eventually("another broker does not matter", func() bool { return w.state("b", "elsewhere").Connected })
	if n := len(w.live()); n != 2 || !w.state("a", "d1").Connected {
		t.Errorf("%d connections; %+v", n, w.state("a", "d1"))
	}
	// The id is free when its last user has gone, or changed.
	w.device("a", "d1", nil)
	w.device("a", "d2", plain)
	w.eventually("its turn", func() bool { return w.state("b", "d1").Connected && w.state("a", "d2").Connected })
	// A device alone may change the settings of its client.
	w.device("b", "d1", func(c *aranya.MQTTConfig) { chosen(c); c.ConnectPacket.Username = "v" })
	w.eventually("changed", func() bool {
		return slices.ContainsFunc(w.live(), func(b *fakeBroker) bool { return b.config.Username == "v" }) && w.state("b", "d1").Connected
	})
}

func TestPermits(t *testing.T) {
	w := newWorld(t)
	w.device("ns", "mine", plain)
	w.device("ns", "grpc", nil)
	w.device("ns", "elsewhere", func(c *aranya.MQTTConfig) { c.Server = "other:1883" })
	w.device("ns", "topic", func(c *aranya.MQTTConfig) { c.MessageNamespace = "/x" })
	ns := mqtt.DefaultMessageNamespace
	var b *fakeBroker
	w.eventually("connected", func() bool {
		for _, l := range w.live() {
			if l.config.Server == "broker:8883" && len(l.namespaces()) == 2 {
				b = l
			}
		}
		return b != nil && w.state("ns", "elsewhere").Connected
	})
	for name, want := range map[string]bool{"mine": true, "grpc": false, "elsewhere": false, "topic": false, "unknown": false} {
		if err := b.admit(ns, "ns", name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.pool.mu.Lock()
	c := w.pool.devices[types.NamespacedName{Namespace: "ns", Name: "mine"}].client
	w.pool.mu.Unlock()
	mine := gateway.Device{Namespace: "ns", Name: "mine", UID: "mine"}
	if err := w.pool.permitDevice(c, ns, mine, topicAddr("broker:8883"+ns+"/ns/mine/up")); err != nil {
		t.Error(err)
	}
	if err := w.pool.permitDevice(c, ns, mine, topicAddr("broker:8883"+ns+"/ns/topic/up")); err == nil || !strings.Contains(err.Error(), "ns/topic") {
		t.Errorf("over the topics of another device: %v", err)
	}
	// A device that moves to another broker may not stay.
	w.device("ns", "mine", func(c *aranya.MQTTConfig) { c.Server = "other:1883" })
	w.eventually("moved", func() bool { return w.pool.permitDevice(c, ns, mine, topicAddr("broker:8883"+ns+"/ns/mine/up")) != nil })
	w.eventually("its link was looked at", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.checked["ns/mine"] })
}

// A device may come before what makes it known is in memory. It gets a moment; who stays unknown is told so.
func TestStrangersGetAMoment(t *testing.T) {
	w := newWorld(t)
	now := clocktesting.NewFakeClock(time.Unix(1e9, 0))
	w.pool.config.Clock = now // nothing looks at it before there is a device
	c := &client{pool: w.pool, server: "broker:8883"}
	key := types.NamespacedName{Namespace: "ns", Name: "new"}
	admit := func() error { return w.pool.admit(c, mqtt.DefaultMessageNamespace, key) }
	for i, tt := range []struct {
		pass  time.Duration
		later bool
	}{{0, true}, {strangerPatience - 1, true}, {1, false}, {strangerMemory - strangerPatience - 1, false}, {1, true}} {
		now.Step(tt.pass)
		if err := admit(); errors.Is(err, mqtt.ErrLater) != tt.later || err == nil {
			t.Errorf("asked for the %d. time: %v", i+1, err)
		}
	}
	// Its Secret has not been read yet, and then it turns out to be missing.
	w.device("ns", "new", withPassword)
	w.eventually("decided", func() bool { return w.state("ns", "new").Reason == ReasonSecretNotFound })
	if err := admit(); err == nil || errors.Is(err, mqtt.ErrLater) {
		t.Errorf("a device with a problem: %v", err)
	}
	// One that is known not to use MQTT is refused at once.
	key.Name = "grpc"
	w.device("ns", "grpc", nil)
	w.eventually("known", func() bool { return w.pool.known(key) })
	if err := admit(); err == nil || errors.Is(err, mqtt.ErrLater) {
		t.Errorf("a device without MQTT: %v", err)
	}
}

type topicAddr string

func (topicAddr) Network() string  { return "mqtt" }
func (a topicAddr) String() string { return string(a) }

func TestSecretsAreFollowed(t *testing.T) {
	w := newWorld(t)
	w.device("ns", "d", withPassword)
	reason := func(want string) func() bool { return func() bool { return w.state("ns", "d").Reason == want } }
	w.eventually("the missing Secret is told", reason(ReasonSecretNotFound))
	secrets := w.kube.CoreV1().Secrets("ns")
	if _, err := secrets.Create(w.ctx, secret("ns", map[string]string{"pass": "1"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the missing key is told", reason(ReasonInvalidSecret))
	for _, password := range []string{"one", "two"} {
		if _, err := secrets.Update(w.ctx, secret("ns", map[string]string{"password": password}), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually("connected with the password of the Secret", func() bool {
			live := w.live()
			return len(live) == 1 && live[0].config.Password == password && w.state("ns", "d").Connected
		})
	}
}

func TestBrokerDown(t *testing.T) {
	w := newWorld(t)
	w.refuse["down:1883"] = errors.New("not authorized")
	w.device("ns", "d", func(c *aranya.MQTTConfig) { c.Server = "down:1883" })
	w.device("ns", "well", plain)
	w.eventually("the broker's reason is told", func() bool {
		s := w.state("ns", "d")
		return !s.Connected && s.Reason == ReasonUnavailable && strings.Contains(s.Message, "down:1883") && strings.Contains(s.Message, "not authorized")
	})
	w.eventually("the other broker is not affected", func() bool { return w.state("ns", "well").Connected })
	w.mu.Lock()
	delete(w.refuse, "down:1883")
	w.mu.Unlock()
	w.eventually("connected by itself", func() bool { return w.state("ns", "d").Connected })
	w.mu.Lock()
	w.refuse["down:1883"] = errors.New("connection refused")
	w.mu.Unlock()
	for _, b := range w.live() {
		if b.config.Server == "down:1883" {
			b.lose(errors.New("EOF"))
		}
	}
	w.eventually("lost", func() bool { return strings.Contains(w.state("ns", "d").Message, "connection refused") })
	if !w.state("ns", "well").Connected {
		t.Error("the other broker is affected")
	}
}

func TestSubscriptionRefused(t *testing.T) {
	w := newWorld(t)
	w.deny["/forbidden"] = errors.New("not authorized")
	w.device("ns", "d", func(c *aranya.MQTTConfig) { c.MessageNamespace = "/forbidden" })
	w.device("ns", "well", plain)
	w.eventually("told", func() bool {
		return strings.Contains(w.state("ns", "d").Message, "/forbidden") && !w.state("ns", "d").Connected
	})
	w.eventually("others on the same client work", func() bool { return w.state("ns", "well").Connected && len(w.live()) == 1 })
	for _, b := range w.live() {
		b.mu.Lock()
		b.deny = nil
		b.mu.Unlock()
	}
	w.eventually("tried again", func() bool { return w.state("ns", "d").Connected })
}

package broker

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/pod/objects"
	"arhat.dev/aranya/pkg/controller/pod/resolve"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

const (
	workers = 4
	// stable is how long a connection must hold for the back-off to start anew.
	stable = time.Minute
	// A broker that is lost, and back soon, is not told of. Each of its devices would have to be told twice, with a write
	// and an event, while all of them come back: the more there are, the longer it is waited.
	patiencePerDevice = 10 * time.Millisecond
	maxPatience       = 30 * time.Second
)

// Reasons of the condition BrokerConnected.
const (
	ReasonConnected      = "BrokerConnected"
	ReasonUnavailable    = "BrokerUnavailable"
	ReasonSecretNotFound = "SecretNotFound"
	ReasonInvalidSecret  = "InvalidSecret"
	ReasonSecretUnknown  = "SecretUnavailable"
	// ReasonClientIDConflict says that another device has the client id, with other settings: an older one, or one for
	// which aranya made it.
	ReasonClientIDConflict = "ClientIDConflict"
)

// State says whether a device's broker can be reached. Reason is empty as long as that is not known.
type State struct {
	Connected bool
	Reason    string
	Message   string
}

// Gateway is what the pool needs of the gateway.
type Gateway interface {
	// Name tells the gateway from all others, those of other clusters at the same broker included. It is the same after
	// a restart.
	Name() string
	// Serve takes connections of devices from a listener until ctx ends.
	Serve(ctx context.Context, l net.Listener, permit gateway.Permit) error
	// DeviceChanged looks at the link of a device again.
	DeviceChanged(namespace, name string)
}

// Config of a Pool.
type Config struct {
	Kube    kubernetes.Interface
	Devices cache.SharedIndexInformer
	Lister  aranyalisters.EdgeDeviceLister
	Clock   clock.WithTicker
	// Changed is called when the State of a device has changed. It must be quick.
	Changed func(key types.NamespacedName)
}

// brokerConn is what the pool needs of a *mqtt.Broker.
type brokerConn interface {
	Listen(ctx context.Context, messageNamespace string, o mqtt.ListenOptions) (net.Listener, error)
	Done() <-chan struct{}
	Err() error
	Close() error
}

// Pool keeps the connections to brokers. All methods may be called concurrently.
type Pool struct {
	config  Config
	objects *objects.Manager[types.NamespacedName]
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]
	backoff wait.Backoff
	// patienceFor is how long a broker may be lost before its devices are told, if there are so many.
	patienceFor func(devices int) time.Duration
	connect     func(ctx context.Context, c mqtt.BrokerConfig) (brokerConn, error)
	running     sync.WaitGroup

	mu      sync.Mutex
	gateway Gateway
	ctx     context.Context // of Run; clients live in it
	devices map[types.NamespacedName]*assignment
	clients map[string]*client
	// waiting holds the devices that are looked at again when another one was.
	waiting map[types.NamespacedName]sets.Set[types.NamespacedName]
	// strangers are devices that asked to be let in before they were known, and since when.
	strangers *lru.Cache
}

// New returns a Pool that does nothing until Run. Its context ends all watches.
func New(ctx context.Context, config Config) (*Pool, error) {
	p := &Pool{
		config:  config,
		queue:   queue.New[types.NamespacedName]("brokers", config.Clock),
		backoff: wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.5, Steps: 16, Cap: time.Minute},
		patienceFor: func(devices int) time.Duration {
			return min(time.Duration(devices)*patiencePerDevice, maxPatience)
		},
		connect: func(ctx context.Context, c mqtt.BrokerConfig) (brokerConn, error) {
			b, err := mqtt.Connect(ctx, c)
			if err != nil {
				return nil, err
			}
			return b, nil
		},
		devices: map[types.NamespacedName]*assignment{},
		clients: map[string]*client{}, waiting: map[types.NamespacedName]sets.Set[types.NamespacedName]{}, strangers: lru.New(maxStrangers),
	}
	p.objects = objects.New(ctx, config.Kube, objects.DefaultLimit, func(users []types.NamespacedName) {
		for _, key := range users {
			p.queue.Add(key)
		}
	})
	if err := config.Devices.AddIndexers(cache.Indexers{clientIDIndex: byClientID}); err != nil {
		return nil, err
	}
	_, err := config.Devices.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: p.notice, DeleteFunc: p.notice,
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*aranya.EdgeDevice)
			now, ok2 := after.(*aranya.EdgeDevice)
			if ok1 && ok2 && old.UID == now.UID && old.Generation == now.Generation && old.DeletionTimestamp.Equal(now.DeletionTimestamp) {
				return // heartbeats and the like
			}
			p.notice(after)
		},
	})
	return p, err
}

func (p *Pool) notice(object any) {
	if name, err := cache.DeletionHandlingObjectToName(object); err == nil {
		p.queue.Add(name.AsNamespacedName())
	}
}

// SetGateway says who serves the devices. It must be called before Run.
func (p *Pool) SetGateway(g Gateway) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gateway = g
}

// Run keeps connections until ctx ends, and returns when all of them have. The informer must have
// synced. Without a gateway there is nothing to do.
func (p *Pool) Run(ctx context.Context) {
	defer p.objects.Close()
	defer p.running.Wait()
	p.mu.Lock()
	p.ctx = ctx
	served := p.gateway != nil
	p.mu.Unlock()
	if !served {
		p.queue.ShutDown()
		return
	}
	queue.Run(ctx, p.queue, workers, p.sync)
}

func (p *Pool) serve(ctx context.Context, l net.Listener, permit gateway.Permit) error {
	return p.gateway.Serve(ctx, l, permit)
}

// State returns the state of a device's broker; false if the device has none.
func (p *Pool) State(key types.NamespacedName) (State, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.devices[key]
	switch {
	case a == nil:
		return State{}, false
	case a.client == nil:
		return a.problem, true
	}
	if refused, ok := a.client.refused[a.namespace]; ok && a.client.state.Connected {
		return refused, true
	}
	return a.client.state, true
}

// sync brings the assignment of a device up to date.
func (p *Pool) sync(_ context.Context, key types.NamespacedName) (time.Duration, error) {
	defer p.wake(key)
	ed, err := p.config.Lister.EdgeDevices(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	if ed == nil || !usesMQTT(ed) {
		p.assign(key, nil)
		p.objects.Use(key, nil)
		return 0, nil
	}
	p.objects.Use(key, references(ed))
	s, err := resolveSettings(ed, p.objects)
	if errors.Is(err, resolve.ErrPending) {
		return 0, nil // comes again with the Secret
	}
	a := &assignment{uid: ed.UID, namespace: messageNamespace(ed)}
	if err != nil {
		if p.assigned(key, ed.UID) && !isProblem(err) {
			return 0, err // what is known of the Secret stays good
		}
		a.problem = State{Reason: ReasonSecretUnknown, Message: err.Error()}
		if problem, ok := errors.AsType[*problem](err); ok {
			a.problem.Reason = problem.reason
		}
		p.assign(key, a)
		return 0, nil
	}
	if a.client, err = p.clientFor(s); err != nil {
		return 0, err
	}
	p.assign(key, a)
	return 0, nil
}

func isProblem(err error) bool {
	_, ok := errors.AsType[*problem](err)
	return ok
}

// count returns how many devices come by a broker and a message namespace. When aranya starts, most are not
// assigned to a client yet.
func (p *Pool) count(server, namespace string) int {
	devices, err := p.config.Lister.List(labels.Everything())
	if err != nil {
		return 0 // never, from memory
	}
	n := 0
	for _, ed := range devices {
		if usesMQTT(ed) && ed.Spec.Connectivity.MQTTConfig.Server == server && messageNamespace(ed) == namespace {
			n++
		}
	}
	return n
}

// messageNamespaces returns those that a client is to subscribe to.
func (p *Pool) messageNamespaces(c *client) sets.Set[string] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.namespaces()
}

// patience is how long the devices of a client are not told that the broker is lost.
func (p *Pool) patience(c *client) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.patienceFor(len(c.devices()))
}

// setState records the state of a client and tells the devices concerned.
func (p *Pool) setState(c *client, state State) {
	p.mu.Lock()
	if c.state == state {
		p.mu.Unlock()
		return
	}
	c.state = state
	users := c.devices()
	p.mu.Unlock()
	p.tell(users)
}

// setRefused records why a message namespace cannot be used, or that it can.
func (p *Pool) setRefused(c *client, namespace string, state *State) {
	p.mu.Lock()
	former, was := c.refused[namespace]
	if state == nil && !was || state != nil && was && former == *state {
		p.mu.Unlock()
		return
	}
	if state == nil {
		delete(c.refused, namespace)
	} else {
		c.refused[namespace] = *state
	}
	users := c.users[namespace].UnsortedList()
	p.mu.Unlock()
	p.tell(users)
}

func (p *Pool) tell(users []types.NamespacedName) {
	for _, key := range users {
		p.config.Changed(key)
	}
}

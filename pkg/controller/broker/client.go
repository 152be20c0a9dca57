package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
)

// errRestarted ends a client's connection whose listener failed.
var errRestarted = errors.New("a subscription ended")

// differing is what errors say that differs from one attempt to the next: the port that a connection came from, which
// may be within the text of an error about DNS, and the time at which a certificate is not valid.
var differing = regexp.MustCompile(`\S+:\d+->|(current time )\S+ `)

// client keeps one connection to a broker. Which devices use it is the pool's knowledge, guarded by the
// pool's lock.
type client struct {
	pool   *Pool
	id     string
	server string
	chosen bool // somebody chose the client id
	config mqtt.BrokerConfig
	stop   context.CancelFunc
	// users holds the devices by message namespace.
	users map[string]sets.Set[types.NamespacedName]
	// changed has an element when the message namespaces changed.
	changed chan struct{}

	state State
	// refused says why a message namespace could not be subscribed.
	refused map[string]State
}

// run keeps the connection up until ctx ends.
func (c *client) run(ctx context.Context) {
	logger := klog.FromContext(ctx).WithValues("broker", c.server, "clientID", c.config.ClientID)
	ctx = klog.NewContext(ctx, logger)
	backoff := c.pool.backoff
	var lost time.Time // when a connection that held was, zero if there was none
	for ctx.Err() == nil {
		begin := time.Now()
		connected, err := c.once(ctx)
		if ctx.Err() != nil {
			return
		}
		held := time.Since(begin) > stable
		if held {
			backoff = c.pool.backoff
		}
		if connected && (held || lost.IsZero()) {
			lost = time.Now()
		}
		pause := backoff.Step()
		logger.Info("The connection to the MQTT broker is down", "reason", err.Error(), "retryIn", pause)
		// Its devices are told after a while that began with the loss, if the broker is not back by then.
		quiet := min(pause, c.pool.patience(c)-time.Since(lost))
		sleep(ctx, quiet)
		if quiet < pause && ctx.Err() == nil {
			c.pool.setState(c, State{Reason: ReasonUnavailable, Message: fmt.Sprintf("The MQTT broker %s cannot be used: %s", c.server, cause(err))})
		}
		sleep(ctx, pause-max(0, quiet))
	}
}

// cause tells why a broker cannot be used, in the same words as long as it is for the same reason: all of its devices
// are written when the words change.
func cause(err error) string { return differing.ReplaceAllString(err.Error(), "$1") }

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// once connects and serves until the connection is lost. The error is never nil, unless ctx ended.
func (c *client) once(ctx context.Context) (connected bool, err error) {
	broker, err := c.pool.connect(ctx, c.config)
	if err != nil {
		return false, err
	}
	defer func() { _ = broker.Close() }()
	klog.FromContext(ctx).Info("Connected to the MQTT broker")
	c.pool.setState(c, State{Connected: true, Reason: ReasonConnected, Message: "aranya is connected to the MQTT broker " + c.server})

	s := subscriptions{client: c, broker: broker, failed: make(chan error, 1), active: map[string]context.CancelFunc{}}
	defer s.running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		again := s.update(ctx)
		var retry <-chan time.Time
		if again {
			retry = time.After(wait.Jitter(c.pool.backoff.Cap/2, 1))
		}
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-broker.Done():
			if err := broker.Err(); err != nil {
				return true, err
			}
			return true, errors.New("the connection was closed")
		case err := <-s.failed:
			return true, err
		case <-c.changed:
		case <-retry:
		}
	}
}

// subscriptions are those of one connection.
type subscriptions struct {
	client  *client
	broker  brokerConn
	active  map[string]context.CancelFunc
	failed  chan error
	running sync.WaitGroup
}

// update subscribes to the message namespaces in use and leaves others. It says whether to try again.
func (s *subscriptions) update(ctx context.Context) (again bool) {
	wanted := s.client.pool.messageNamespaces(s.client)
	for ns, stop := range s.active {
		if !wanted.Has(ns) {
			stop()
			delete(s.active, ns)
		}
	}
	for ns := range wanted {
		if s.active[ns] != nil {
			continue
		}
		if err := s.subscribe(ctx, ns); err != nil {
			klog.FromContext(ctx).Info("The MQTT broker refused a subscription", "messageNamespace", ns, "reason", err.Error())
			s.client.pool.setRefused(s.client, ns, &State{Reason: ReasonUnavailable,
				Message: fmt.Sprintf("The MQTT broker %s does not let aranya subscribe under %s: %s", s.client.server, ns, cause(err))})
			again = true
			continue
		}
		s.client.pool.setRefused(s.client, ns, nil)
	}
	return again
}

func (s *subscriptions) subscribe(ctx context.Context, ns string) error {
	pool, c := s.client.pool, s.client
	listener, err := s.broker.Listen(ctx, ns, mqtt.ListenOptions{
		Admit: func(namespace, name string) error {
			return pool.admit(c, ns, types.NamespacedName{Namespace: namespace, Name: name})
		},
		Devices: pool.count(c.server, ns),
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	s.active[ns] = stop
	s.running.Go(func() {
		err := pool.serve(ctx, listener, func(device gateway.Device, remote net.Addr) error {
			return pool.permitDevice(c, ns, device, remote)
		})
		if ctx.Err() != nil || errors.Is(err, gateway.ErrStopping) {
			return // nothing is wrong with the broker
		}
		if err == nil {
			err = errRestarted
		}
		select {
		case s.failed <- err:
		default: // another one failed first
		}
	})
	return nil
}

// namespaces returns the message namespaces in use.
func (c *client) namespaces() sets.Set[string] { return sets.KeySet(maps.Clone(c.users)) }

// devices returns who uses the client. It is called with the pool's lock held.
func (c *client) devices() []types.NamespacedName {
	var all []types.NamespacedName
	for _, keys := range c.users {
		all = append(all, keys.UnsortedList()...)
	}
	return all
}

// notice has the client look at its message namespaces.
func (c *client) notice() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

package mqtt

import (
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"

	paho "github.com/eclipse/paho.mqtt.golang"

	"arhat.dev/aranya/pkg/edge/link"
)

const (
	// maxAnswers is how many frames that belong to no connection may wait to be sent.
	maxAnswers = 1024
	// maxPerDevice is how many connections one device may have: an old one that is about to go, one
	// that renews or enrols, and the one in use. The oldest yields.
	maxPerDevice = 4
	// maxBacklog is how many connections may wait for Accept, per listener.
	maxBacklog = 128
)

// Broker is the server's connection to a broker, which all of its devices share. It is not re-established:
// when it is lost, Done is closed, all connections and listeners end, and whoever owns it connects anew.
// All methods may be called concurrently.
type Broker struct {
	client   *client
	config   BrokerConfig
	serverID uint64
	answers  chan answer
	notes    noteQueue
	entrance *entrance
	work     sync.WaitGroup

	mu        sync.RWMutex
	closed    bool
	listeners map[string]*listener // by message namespace
	users     map[string]int       // listeners and connections, by message namespace
	conns     map[connKey]*conn
	devices   map[string][]*conn // by the topic that the device sends to, oldest first
	parked    map[connKey]*parked
}

// connKey finds the connection of a frame, or what is parked.
type connKey struct {
	topic  string
	device uint64
}

// answer is a frame that does not belong to a connection, or not any more.
type answer struct {
	topic string
	frame *frame
}

// Connect connects to a broker. The error tells the broker's reason if it refused. The context is for
// connecting only.
func Connect(ctx context.Context, config BrokerConfig) (*Broker, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	b := newBroker(config)
	will := Will{Topic: statusTopic(DefaultMessageNamespace), QoS: qos, Payload: b.status(frameGone).appendTo(nil)}
	if config.Will != nil {
		will = *config.Will
	}
	if b.client, err = connect(ctx, config, will, b.receive); err != nil {
		return nil, err
	}
	b.client.start()
	b.work.Go(b.sendAnswers)
	b.work.Go(b.watch)
	return b, nil
}

// newBroker returns a Broker that is not connected.
func newBroker(config BrokerConfig) *Broker {
	b := &Broker{
		config:    config,
		serverID:  serverFamily(config.Instance) | uint64(rand.Uint32()) | 1, // never 0
		answers:   make(chan answer, maxAnswers),
		listeners: map[string]*listener{},
		users:     map[string]int{},
		conns:     map[connKey]*conn{},
		devices:   map[string][]*conn{},
		parked:    map[connKey]*parked{},
	}
	b.entrance = newEntrance(b.letIn)
	return b
}

// serverFamily is the half of a server ID that all servers of one name have, one after the other.
func serverFamily(instance string) uint64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(instance))
	return uint64(h.Sum32()) << 32
}

func (b *Broker) status(kind frameType) *frame {
	return &frame{kind: kind, id: connID{server: b.serverID}}
}

// Done is closed when the connection to the broker is lost or closed.
func (b *Broker) Done() <-chan struct{} { return b.client.done }

// Err is why Done is closed, nil before that.
func (b *Broker) Err() error {
	if isLost(b.client) {
		return b.client.lost()
	}
	return nil
}

// Close closes all listeners and connections, tells the devices, and disconnects. It returns when
// everything has ended.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	listeners := make([]*listener, 0, len(b.listeners))
	for _, l := range b.listeners {
		listeners = append(listeners, l)
	}
	b.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close()
		if !isLost(b.client) {
			b.client.await(b.client.publish(statusTopic(l.messageNamespace), b.status(frameGone).appendTo(nil)))
		}
	}
	for _, ns := range b.messageNamespaces() { // a persistent session would keep them
		b.unsubscribe(ns)
	}
	b.client.disconnect()
	b.work.Wait()
	return nil
}

// watch ends everything with the connection to the broker.
func (b *Broker) watch() {
	<-b.client.done
	b.mu.Lock()
	b.closed = true
	listeners, conns, parked := b.listeners, b.conns, b.parked
	b.listeners, b.conns, b.devices, b.parked = map[string]*listener{}, map[connKey]*conn{}, map[string][]*conn{}, nil
	b.mu.Unlock()
	b.entrance.close()
	for _, l := range listeners {
		l.end(b.client.lost())
	}
	for _, c := range conns {
		c.fail(b.client.lost())
	}
	for _, p := range parked {
		p.lost(b.client.lost())
	}
}

// receive takes a message from the broker. It must not block.
func (b *Broker) receive(m paho.Message) {
	s := &b.client.counters
	if m.Retained() { // frames are never retained: somebody plays tricks
		s.foreign.Add(1)
		return
	}
	f, ok := s.decode(m.Payload(), b.config.MaxPayload)
	if !ok {
		return
	}
	switch f.kind {
	case frameOpen:
		b.open(m.Topic(), &f)
		return
	case frameGone:
		b.gone(m.Topic(), &f)
		return
	}
	if f.id.server != b.serverID {
		b.foreign(m.Topic(), &f)
		return
	}
	if f.kind == frameNote {
		b.heard(m.Topic(), &f)
		return
	}
	b.mu.RLock()
	c := b.conns[connKey{m.Topic(), f.id.device}]
	b.mu.RUnlock()
	if c == nil {
		b.foreign(m.Topic(), &f)
		return
	}
	c.receive(&f, s)
}

// gone ends what a device had that is not there any more. The ID is that of the first connection over its
// connection to the broker, or of one that it has asked for.
func (b *Broker) gone(topic string, f *frame) {
	b.mu.RLock()
	of := slices.DeleteFunc(slices.Clone(b.devices[topic]), func(c *conn) bool { return c.wayID != f.id.device })
	b.mu.RUnlock()
	for _, c := range of {
		c.receive(f, &b.client.counters)
	}
	b.mu.RLock()
	p := b.parked[connKey{topic, f.id.device}]
	b.mu.RUnlock()
	if p != nil {
		p.lose(errPeerGone)
	} else if len(of) == 0 {
		b.foreign(topic, f)
	}
}

// foreign handles a frame of no connection. A device that believes in one is told if it is certain that
// no other server has it.
func (b *Broker) foreign(topic string, f *frame) {
	b.client.counters.foreign.Add(1)
	if f.kind == frameGone {
		b.entrance.forget(topic, f.id.device)
	}
	if f.id.server>>32 != b.serverID>>32 {
		return
	}
	messageNamespace, namespace, name, ok := splitUpTopic(topic)
	if !ok {
		return
	}
	down := downTopic(messageNamespace, namespace, name)
	switch f.kind {
	case frameData, frameCredit:
		b.answer(down, resetFrame(f.id, "the server does not know the connection, perhaps because it started anew"))
	case frameNote:
		b.answer(down, &frame{kind: frameNote, id: f.id})
	}
}

// open makes a connection that a device asks for.
func (b *Broker) open(topic string, f *frame) {
	messageNamespace, namespace, name, ok := splitUpTopic(topic)
	b.mu.RLock()
	l := b.listeners[messageNamespace]
	known := b.conns[connKey{topic, f.id.device}]
	b.mu.RUnlock()
	if !ok || l == nil {
		b.client.counters.foreign.Add(1)
		return
	}
	if known != nil { // asked again because the answer took its time
		b.client.counters.duplicates.Add(1)
		return
	}
	down := downTopic(messageNamespace, namespace, name)
	if server := f.formerID().server; server != 0 && server != b.serverID { // it is for another one to answer
		b.client.counters.foreign.Add(1)
		if server>>32 == b.serverID>>32 { // which is not there any more
			b.refuse(down, f.id.device, errNotKnown)
		}
		return
	}
	err := validateDevice(namespace, name)
	if err == nil && l.options.Admit != nil {
		err = l.options.Admit(namespace, name)
	}
	switch {
	case err == nil:
		if b.entrance.ask(&request{listener: l, up: topic, down: down, frame: *f}) {
			b.answer(down, &frame{kind: frameWait, id: connID{device: f.id.device}})
		}
	case !errors.Is(err, ErrLater):
		b.refuse(down, f.id.device, err)
	}
}

// refuse tells a device why it gets no connection.
func (b *Broker) refuse(down string, device uint64, err error) {
	b.client.counters.refused.Add(1)
	for _, f := range refusal(device, err.Error()) {
		b.answer(down, f)
	}
}

// letIn makes the connection of a device whose turn it is.
func (b *Broker) letIn(r *request, e *entry) bool {
	err := b.accept(r, e)
	if err != nil && !errors.Is(err, errStopping) {
		b.refuse(r.down, r.frame.id.device, err)
	}
	return err == nil
}

// accept puts a new connection into the backlog of its listener.
func (b *Broker) accept(r *request, e *entry) error {
	up, down, f := r.up, r.down, &r.frame
	c := newConn(b.client, down, b.config.MaxPayload, connID{device: f.id.device, server: b.serverID})
	c.entry, c.wayID = e, f.formerID().device
	c.out.begin(f)
	c.local, c.remote = address(b.config.Server+down), address(b.config.Server+up)
	c.reset = func(f *frame) { b.answer(down, f) }
	c.park = func(heard func([]byte), lost func(error)) (link.Parked, error) {
		return b.park(&parked{broker: b, messageNamespace: r.listener.messageNamespace, key: connKey{up, c.wayID}, down: down, heard: heard, lost: lost})
	}
	key := connKey{up, f.id.device}
	c.gone = func() {
		c.Settled()
		b.remove(key, c)
		b.release(r.listener.messageNamespace)
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed
	}
	if b.conns[key] != nil { // asked again at the moment when its turn came
		b.client.counters.duplicates.Add(1)
		return nil
	}
	if err := r.listener.offer(c); err != nil {
		return err
	}
	if all := b.devices[up]; len(all) >= maxPerDevice {
		all[0].yield()
		b.devices[up] = all[1:]
	}
	b.users[r.listener.messageNamespace]++
	b.conns[key] = c
	b.devices[up] = append(b.devices[up], c)
	c.start(b.work.Go)
	return nil
}

// remove forgets a connection that is over.
func (b *Broker) remove(key connKey, c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns[key] == c {
		delete(b.conns, key)
	}
	all := slices.DeleteFunc(slices.Clone(b.devices[key.topic]), func(other *conn) bool { return other == c })
	if len(all) == 0 {
		delete(b.devices, key.topic)
		return
	}
	b.devices[key.topic] = all
}

// answer sends a frame of no connection, if not too many are waiting.
func (b *Broker) answer(topic string, f *frame) {
	select {
	case b.answers <- answer{topic, f}:
	default:
		b.client.counters.dropped.Add(1)
	}
}

func (b *Broker) sendAnswers() {
	for {
		select {
		case a := <-b.answers:
			b.client.publish(a.topic, a.frame.appendTo(nil))
		case <-b.client.done:
			return
		}
	}
}

package broker

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// assignment is how a device is reached.
type assignment struct {
	uid       types.UID
	client    *client // nil if there is a problem
	namespace string
	problem   State
}

func (p *Pool) assigned(key types.NamespacedName, uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.devices[key]
	return a != nil && a.uid == uid && a.client != nil
}

// clientFor returns the client with these settings, which is made if there is none. It does not
// connect before it has a user.
func (p *Pool) clientFor(s *settings) (*client, error) {
	id := s.id()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[id]; c != nil {
		return c, nil
	}
	config, err := s.broker(p.gateway.Name())
	if err != nil {
		return nil, err
	}
	return &client{
		pool: p, id: id, server: s.Server, chosen: s.ClientID != "", config: config, changed: make(chan struct{}, 1),
		users: map[string]sets.Set[types.NamespacedName]{}, refused: map[string]State{},
	}, nil
}

// assign replaces the assignment of a device. Links that it may not use any more are cut, clients that
// nobody uses any more are closed.
func (p *Pool) assign(key types.NamespacedName, a *assignment) {
	p.mu.Lock()
	former := p.devices[key]
	if same(former, a) {
		p.mu.Unlock()
		return
	}
	if a != nil && p.endedLocked(a.client) {
		p.mu.Unlock()
		p.queue.Add(key) // another one will be made
		return
	}
	if a != nil && a.client != nil && !p.contendLocked(key, a) {
		p.mu.Unlock()
		return // it stays as it is until that is decided
	}
	if same(former, a) { // refused as before
		p.mu.Unlock()
		return
	}
	if a != nil {
		p.devices[key] = a
		p.useLocked(key, a)
	} else {
		delete(p.devices, key)
	}
	p.releaseLocked(key, former, a)
	p.mu.Unlock()
	p.gateway.DeviceChanged(key.Namespace, key.Name)
	p.config.Changed(key)
}

// endedLocked says whether the last device of a client has left, and no other client has taken its place.
func (p *Pool) endedLocked(c *client) bool {
	return c != nil && c.stop != nil && p.clients[c.id] == nil
}

func same(a, b *assignment) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func (p *Pool) useLocked(key types.NamespacedName, a *assignment) {
	if a.client == nil {
		return
	}
	if known := p.clients[a.client.id]; known != nil {
		a.client = known // another worker may have made one meanwhile
	}
	c := a.client
	if c.users[a.namespace] == nil {
		c.users[a.namespace] = sets.New[types.NamespacedName]()
		c.notice()
	}
	c.users[a.namespace].Insert(key)
	if p.clients[c.id] == nil {
		ctx, stop := context.WithCancel(p.ctx)
		c.stop = stop
		c.config.Instance = p.instanceLocked(c.config.Instance)
		p.clients[c.id] = c
		p.running.Go(func() { c.run(ctx) })
	}
}

// instanceLocked makes a name for a server that no other client has: one that differs in its password or key alone
// hears the same devices, and would tell them that it does not know them.
func (p *Pool) instanceLocked(name string) string {
	taken := sets.New[string]()
	for _, c := range p.clients {
		taken.Insert(c.config.Instance)
	}
	for i := 0; ; i++ {
		if instance := fmt.Sprintf("%s\x00%d", name, i); !taken.Has(instance) {
			return instance
		}
	}
}

func (p *Pool) releaseLocked(key types.NamespacedName, former, now *assignment) {
	if former == nil || former.client == nil {
		return
	}
	c := former.client
	if now != nil && now.client == c && now.namespace == former.namespace {
		return
	}
	c.users[former.namespace].Delete(key)
	if c.users[former.namespace].Len() > 0 {
		return
	}
	delete(c.users, former.namespace)
	delete(c.refused, former.namespace)
	c.notice()
	if len(c.users) == 0 {
		c.stop()
		if p.clients[c.id] == c { // it was not evicted
			delete(p.clients, c.id)
		}
	}
}

package mqtt

import (
	"maps"
	"slices"
)

// release says that a listener or a connection is over. The last one of a message namespace ends the
// subscription.
func (b *Broker) release(messageNamespace string) {
	b.mu.Lock()
	b.users[messageNamespace]--
	last := b.users[messageNamespace] == 0
	if last {
		delete(b.users, messageNamespace)
	}
	b.mu.Unlock()
	if last {
		b.unsubscribe(messageNamespace)
	}
}

// unsubscribe ends a subscription that has no user.
func (b *Broker) unsubscribe(messageNamespace string) {
	b.client.unsubscribe(upFilter(messageNamespace), func() bool {
		b.mu.RLock()
		defer b.mu.RUnlock()
		return b.users[messageNamespace] > 0 && !b.closed
	})
}

// messageNamespaces returns those that are subscribed to.
func (b *Broker) messageNamespaces() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Collect(maps.Keys(b.users))
}

package gateway

import (
	"context"
	"sync"

	"google.golang.org/grpc/stats"
	"k8s.io/apimachinery/pkg/util/sets"

	"arhat.dev/aranya/pkg/edge/link/traffic"
)

// newcomers are connections whose handshakes, of TLS and HTTP/2, are not over. gRPC waits for them before it
// stops, for as long as they take.
type newcomers struct {
	mu     sync.Mutex
	conns  sets.Set[*deviceConn]
	closed bool
}

// add closes the connection instead once they were cut off.
func (n *newcomers) add(c *deviceConn) {
	n.mu.Lock()
	closed := n.closed
	if !closed {
		if n.conns == nil {
			n.conns = sets.New[*deviceConn]()
		}
		n.conns.Insert(c)
	}
	n.mu.Unlock()
	if closed {
		_ = c.Close()
	}
}

func (n *newcomers) remove(c *deviceConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns.Delete(c)
}

// cutOff closes all, and those that are still to come.
func (n *newcomers) cutOff() {
	n.mu.Lock()
	n.closed = true
	conns := n.conns.UnsortedList()
	n.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range conns {
		closing.Go(func() { _ = c.Close() }) // a WebSocket takes a while to say so
	}
	closing.Wait()
}

// linkStats counts traffic, and notices that gRPC has taken a connection over.
type linkStats struct {
	traffic.Handler
	newcomers *newcomers
}

// TagConn implements stats.Handler.
func (l linkStats) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	if p, err := peerFrom(ctx); err == nil {
		l.newcomers.remove(p.conn)
	}
	return l.Handler.TagConn(ctx, info)
}

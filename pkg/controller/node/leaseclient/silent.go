package leaseclient

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

// connections are those that are open. HTTP/2 would use one again on which requests run out of time: all Leases would
// expire before its health check finds that nobody is there any more.
type connections struct {
	mu   sync.Mutex
	open map[*gatheringConn]struct{}
}

// dial returns a dial function whose connections gather what is written and read, and are noted.
func (c *connections) dial(next dial) dial {
	if next == nil {
		next = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext // client-go's own
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		below, err := next(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := gather(below)
		conn.closed = func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.open, conn)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open[conn] = struct{}{}
		return conn, nil
	}
}

// closeSilent closes the connections on which nothing came since a time. An API server that is merely slow to answer
// one request keeps its connection, and the other requests on it.
func (c *connections) closeSilent(since time.Time) {
	c.mu.Lock()
	var silent []*gatheringConn
	for conn := range c.open {
		if conn.heard.Load() <= since.UnixNano() {
			silent = append(silent, conn)
		}
	}
	c.mu.Unlock()
	for _, conn := range silent {
		_ = conn.Close() // all who wait for an answer learn of it
	}
}

// hangUp closes the connections that were silent all the time that it took a request to fail, if that was long.
type hangUp struct {
	next        http.RoundTripper
	connections *connections
	patience    time.Duration
}

var _ utilnet.RoundTripperWrapper = &hangUp{}

// RoundTrip implements http.RoundTripper.
func (h *hangUp) RoundTrip(request *http.Request) (*http.Response, error) {
	start := time.Now()
	response, err := h.next.RoundTrip(request)
	if err != nil && time.Since(start) >= h.patience {
		h.connections.closeSilent(start)
	}
	return response, err
}

// WrappedRoundTripper implements utilnet.RoundTripperWrapper.
func (h *hangUp) WrappedRoundTripper() http.RoundTripper { return h.next }

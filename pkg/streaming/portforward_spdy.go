package streaming

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	netutils "k8s.io/utils/net"

	"arhat.dev/aranya/pkg/streaming/spdy"
)

// serveSPDY serves a port-forward on a request that has been upgraded. A connection is two streams of
// the same request id: one for its data, one on which the client is told why there is none.
func (f *forwarder) serveSPDY(conn net.Conn, reader io.Reader, config Config) {
	p := &pairs{forwarder: f, timeout: config.StreamCreationTimeout, waiting: map[string]*pair{}}
	defer p.stop()
	// Connections beyond the bound wait a moment for their turn.
	limits := spdy.Config{IdleTimeout: config.IdleTimeout, MaxStreams: 4 * config.MaxConnections}
	if err := spdy.NewConn(conn, reader, limits, p.add).Serve(f.ctx); err != nil {
		klog.FromContext(f.ctx).V(2).Info("A port-forward session broke", "target", f.name, "err", err)
	}
}

// pairs are the connections of which one stream is there.
type pairs struct {
	*forwarder
	timeout time.Duration

	mu      sync.Mutex
	waiting map[string]*pair
}

// pair is what a connection consists of.
type pair struct {
	data, failure *spdy.Stream
	expire        *time.Timer
}

// add is the spdy.Handler. The second stream of a pair begins the connection.
func (p *pairs) add(stream *spdy.Stream) (run func(done func()), err error) {
	headers := stream.Headers()
	port, err := netutils.ParsePort(headers.Get(criportforward.PortHeader), false)
	if err != nil {
		return nil, fmt.Errorf("%q is not a port", headers.Get(criportforward.PortHeader))
	}
	kind, id := headers.Get(criportforward.StreamType), requestID(stream)
	if kind != criportforward.StreamTypeData && kind != criportforward.StreamTypeError {
		return nil, fmt.Errorf("stream type %q is unknown", kind)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.waiting[id]
	if c == nil {
		c = &pair{}
		c.expire = time.AfterFunc(p.timeout, func() { p.expired(id, c) })
		p.waiting[id] = c
	}
	switch {
	case kind == criportforward.StreamTypeData && c.data == nil:
		c.data = stream
	case kind == criportforward.StreamTypeError && c.failure == nil:
		c.failure = stream
	default:
		return nil, fmt.Errorf("request %q has its %s stream already", id, kind)
	}
	if c.data == nil || c.failure == nil {
		return nil, nil
	}
	c.expire.Stop()
	delete(p.waiting, id)
	return func(done func()) { p.forward(c, int32(port), done) }, nil
}

// requestID is what the two streams of a connection have in common. Clients before Kubernetes 1.2 gave
// none, and opened the data stream right after the other.
func requestID(stream *spdy.Stream) string {
	if id := stream.Headers().Get(criportforward.PortForwardRequestIDHeader); id != "" {
		return id
	}
	id := stream.Identifier()
	if stream.Headers().Get(criportforward.StreamType) == criportforward.StreamTypeData {
		id -= 2
	}
	return strconv.FormatUint(uint64(id), 10)
}

// expired gives up waiting for the other stream of a pair.
func (p *pairs) expired(id string, c *pair) {
	p.mu.Lock()
	if p.waiting[id] != c {
		p.mu.Unlock()
		return
	}
	delete(p.waiting, id)
	p.mu.Unlock()
	if c.failure != nil {
		p.report(c, errors.New("timed out waiting for streams"))
	}
	if c.data != nil {
		_ = c.data.Reset()
	}
}

func (p *pairs) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, c := range p.waiting {
		c.expire.Stop()
		delete(p.waiting, id)
	}
}

// forward begins a connection, and calls done when it is over.
func (p *pairs) forward(c *pair, port int32, done func()) {
	p.begin(port, c.data, func(err error) {
		defer done()
		if err != nil {
			p.report(c, fmt.Errorf("error forwarding port %d to %s: %w", port, p.name, err))
			_ = c.data.Reset()
			return
		}
		finish(c.data)
		finish(c.failure)
	})
}

func (p *pairs) report(c *pair, err error) {
	klog.FromContext(p.ctx).V(2).Info("Could not forward a port", "target", p.name, "err", err)
	_, _ = c.failure.Write([]byte(err.Error()))
	finish(c.failure)
}

// finish ends a stream, after what was written, also if the client leaves its side open. If that fails,
// the client is gone.
func finish(stream *spdy.Stream) {
	_, _ = stream.Close(), stream.Reset()
}

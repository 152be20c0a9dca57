package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// ErrLater says that it is not known yet whether a device is admitted.
var ErrLater = errors.New("not known yet")

// errStopping says that the server does not listen any more. Devices are not told: another server may answer them.
var errStopping = errors.New("the server does not listen any more")

const (
	// spreadTime is how much time devices that wait for a server leave each other.
	spreadTime = 2 * time.Millisecond
	// maxSpread limits the time over which devices are asked to come, and for which a device lets itself be
	// asked.
	maxSpread = 30 * time.Second
)

// ListenOptions are optional.
type ListenOptions struct {
	// Admit is asked for each connection that a device opens. Its error is told to the device (the first
	// KiB), and the connection is not made. With ErrLater the device is told nothing, and asks again.
	// It must be quick: all devices of the broker wait.
	Admit func(namespace, name string) error
	// Devices is how many there may be: they are asked not to come all at once.
	Devices int
}

// listener takes the connections of the devices of one message namespace.
type listener struct {
	broker           *Broker
	messageNamespace string
	options          ListenOptions
	backlog          chan *conn

	mu    sync.Mutex
	err   error // set before ended is closed
	ended chan struct{}
}

// Listen subscribes to the topics of all devices of a message namespace. Accept of the listener returns
// *link.Conn. Closing it ends the connections that nobody accepted; the others live on until they or the
// broker are closed.
func (b *Broker) Listen(ctx context.Context, messageNamespace string, o ListenOptions) (net.Listener, error) {
	if err := validateMessageNamespace(messageNamespace); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	l := &listener{
		broker: b, messageNamespace: messageNamespace, options: o,
		backlog: make(chan *conn, maxBacklog), ended: make(chan struct{}),
	}
	if err := b.register(l); err != nil {
		return nil, err
	}
	if err := b.client.subscribe(ctx, upFilter(messageNamespace)); err != nil {
		_ = l.Close()
		return nil, err
	}
	// Devices of a former server of this name need not wait to find out.
	hello := b.status(frameHello)
	hello.creditFrames = uint64(spread(o.Devices).Milliseconds())
	b.answer(statusTopic(messageNamespace), hello)
	return l, nil
}

// spread is the time over which devices should come that are waiting for a server.
func spread(devices int) time.Duration {
	return min(time.Duration(devices)*spreadTime, maxSpread)
}

func (b *Broker) register(l *listener) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.Err(); err != nil {
		return err
	}
	if b.closed {
		return brokerLost(b.config.Server, errClosed)
	}
	if b.listeners[l.messageNamespace] != nil {
		return fmt.Errorf("the message namespace %q is listened to already", l.messageNamespace)
	}
	b.listeners[l.messageNamespace] = l
	b.users[l.messageNamespace]++
	return nil
}

// offer puts a connection into the backlog. It is called with the broker's lock held.
func (l *listener) offer(c *conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.ended:
		return errStopping
	default:
	}
	select {
	case l.backlog <- c:
		return nil
	default:
		return errors.New("too many devices connect at the moment; try again")
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.ended:
		return nil, l.err
	default:
	}
	select {
	case c := <-l.backlog:
		return link.NewConn(c, link.MethodMQTT), nil
	case <-l.ended:
		return nil, l.err
	}
}

// Addr implements net.Listener. It names the broker and what is subscribed to.
func (l *listener) Addr() net.Addr {
	return address(l.broker.config.Server + upFilter(l.messageNamespace))
}

// Close implements net.Listener. It unsubscribes, unless there are connections: what their devices have to
// say is heard until the last one has ended.
func (l *listener) Close() error {
	b := l.broker
	b.mu.Lock()
	registered := b.listeners[l.messageNamespace] == l
	if registered {
		delete(b.listeners, l.messageNamespace)
	}
	b.mu.Unlock()
	l.end(&net.OpError{Op: "accept", Net: "mqtt", Addr: l.Addr(), Err: net.ErrClosed})
	if registered {
		b.release(l.messageNamespace)
	}
	return nil
}

// end has Accept fail from now on.
func (l *listener) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.ended:
		return
	default:
	}
	l.err = err
	close(l.ended)
	for {
		select {
		case c := <-l.backlog:
			_ = c.Close()
		default:
			return
		}
	}
}

// yield ends a connection of a device that has made too many since.
func (c *conn) yield() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.resetLocked(fmt.Errorf("the device opened %d further connections", maxPerDevice))
	}
}

package mqtt

import (
	"context"
	"errors"
	"net"
)

// Broker is the server's connection to a broker. It is not re-established: when it is lost, Done is
// closed, all connections and listeners end, and whoever owns it connects anew.
type Broker struct{}

// Connect connects to a broker. The error tells the broker's reason if it refused.
func Connect(ctx context.Context, c BrokerConfig) (*Broker, error) {
	return nil, errors.New("no")
}

// ListenOptions are optional.
type ListenOptions struct {
	// Admit is asked for each connection that a device opens. Its error is told to the device, with
	// which the connection ends. It must be quick: all devices of the broker wait meanwhile.
	Admit func(namespace, name string) error
}

// Listen subscribes to the topics of all devices of a message namespace. Accept of the listener returns
// *link.Conn. Closing it, like Close of the broker, ends the connections made by it.
func (b *Broker) Listen(ctx context.Context, messageNamespace string, o ListenOptions) (net.Listener, error) {
	return nil, errors.New("no")
}

// Done is closed when the connection to the broker is lost or closed.
func (b *Broker) Done() <-chan struct{} { return nil }

// Err is why Done is closed, nil before that.
func (b *Broker) Err() error { return nil }

// Close tells the devices and disconnects. It returns when everything has ended.
func (b *Broker) Close() error { return nil }

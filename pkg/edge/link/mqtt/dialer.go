package mqtt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/link"
)

const (
	// openInterval is after which a device without an answer asks again: the server may have come to
	// the broker meanwhile.
	openInterval = 5 * time.Second
	// firstInterval is the same for the first time; it doubles from then on. The server may be about to hear
	// of the device.
	firstInterval = 300 * time.Millisecond
	// openTime is how long a device asks. The limit for TLS and everything else is the caller's.
	openTime = 20 * time.Second
)

// Dialer is the device's end. Each connection has a connection to the broker of its own, whose will message
// tells the server when the device is lost.
type Dialer struct {
	// Broker says how to connect. Will, Instance and MessageNamespace are not used.
	Broker BrokerConfig
	// MessageNamespace is the prefix of the topics, as in the EdgeDevice. Default DefaultMessageNamespace.
	MessageNamespace string
	// Namespace and Name of the EdgeDevice that this device is, or is about to be.
	Namespace, Name string
}

// device is the connection to the broker of one connection of the link.
type device struct {
	*conn
	client *client
	down   string
	limit  int // of payloads

	answer chan error    // the first answer to open
	again  chan struct{} // a server has come
	last   *frame        // what to tell the server at the end
	ended  chan struct{} // closed when the broker was left
}

// Dial implements link.Dialer. The address is for error messages: the broker is that of the Dialer.
func (d Dialer) Dial(ctx context.Context, _ string) (*link.Conn, error) {
	if d.MessageNamespace == "" {
		d.MessageNamespace = DefaultMessageNamespace
	}
	config, err := d.Broker.complete()
	if err == nil {
		err = errors.Join(validateMessageNamespace(d.MessageNamespace), validateDevice(d.Namespace, d.Name))
	}
	if err != nil {
		return nil, err
	}
	up := upTopic(d.MessageNamespace, d.Namespace, d.Name)
	id := connID{device: rand.Uint64() | 1} // never 0
	dev := &device{
		down: downTopic(d.MessageNamespace, d.Namespace, d.Name), limit: config.MaxPayload,
		answer: make(chan error, 1), again: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	dev.conn = newConn(nil, up, config.MaxPayload, id)
	dev.accepted = true // there is no answer to be sent
	dev.local, dev.remote = address(config.Server+dev.down), address(config.Server+up)
	will := Will{Topic: up, QoS: qos, Payload: (&frame{kind: frameGone, id: id}).appendTo(nil)}
	dev.reset = func(f *frame) { dev.last = f }
	dev.gone = func() {}
	if dev.client, err = connect(ctx, config, will, dev.receiveMessage); err != nil {
		return nil, err
	}
	dev.publisher = dev.client
	dev.client.start()
	if err := dev.open(ctx, d.MessageNamespace); err != nil {
		dev.client.disconnect()
		return nil, err
	}
	go dev.serve()
	return link.NewConn(dev, link.MethodMQTT), nil
}

// open subscribes and asks the server for a connection.
func (d *device) open(ctx context.Context, messageNamespace string) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	if err := d.client.subscribe(ctx, d.down); err != nil {
		return err
	}
	// Not vital: without it the loss of the server is noticed later.
	if err := d.client.subscribe(ctx, statusTopic(messageNamespace)); err != nil {
		if ctx.Err() != nil || isLost(d.client) {
			return err
		}
		klog.FromContext(ctx).Error(err, "Will not be told at once when aranya is lost or starts anew")
	}
	d.mu.Lock()
	request := d.encode(&frame{kind: frameOpen, maxPayload: uint64(d.limit)})
	d.mu.Unlock()
	interval := firstInterval
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		t := d.client.publish(d.topic, request)
		select {
		case err := <-d.answer:
			return err
		case <-timer.C:
			interval = min(2*interval, openInterval)
			timer.Reset(interval)
		case <-d.again:
		case <-d.client.done:
			return d.client.lost()
		case <-ctx.Done():
			if err := failure(t); err != nil {
				return err
			}
			return fmt.Errorf("nobody answers at the MQTT broker %s on the topic %q: either aranya is not connected to this broker, "+
				"or no EdgeDevice %s names it, or the broker's ACL forbids the topic: %w", d.client.server, d.topic, d.remote, ctx.Err())
		}
	}
}

// isLost says whether the connection to the broker is over.
func isLost(cl *client) bool {
	select {
	case <-cl.done:
		return true
	default:
		return false
	}
}

// failure is the error of a token that is done.
func failure(t token) error {
	if isDone(t) {
		return t.Error()
	}
	return nil
}

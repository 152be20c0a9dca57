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
	// openTime is how long a device asks that nobody answers. The limit for TLS and everything else is the
	// caller's.
	openTime = 20 * time.Second
	// waitInterval is after which a device asks again that was told to wait. It need not be soon: both ends are told
	// when the other one is lost, and thousands may wait.
	waitInterval = 40 * time.Second
)

// Dialer is the device's end. Each connection has a connection to the broker of its own, or one that a Keeper has kept,
// whose will message tells the server when the device is lost.
type Dialer struct {
	// Broker says how to connect. Will and Instance are not used.
	Broker BrokerConfig
	// MessageNamespace is the prefix of the topics, as in the EdgeDevice. Default DefaultMessageNamespace.
	MessageNamespace string
	// Namespace and Name of the EdgeDevice that this device is, or is about to be.
	Namespace, Name string
	// Keeper keeps the connection to the broker from one Dial to the next. It may be nil.
	Keeper *Keeper
}

// device is the device's end of a connection.
type device struct {
	*conn
	way    *way
	former connID // see frame.formerID; zero if this is the first connection

	answer chan error         // the first answer to open
	wait   chan struct{}      // the server has others to let in first
	again  chan time.Duration // a server has come; ask within that time
	last   *frame             // what to tell the server at the end
	ended  chan struct{}      // closed when the broker was left, or the device is parked there
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
	dev, err := d.reach(ctx, config)
	if err != nil {
		return nil, err
	}
	err = dev.ask(ctx)
	if keep := dev.way.asked(err); err != nil {
		if !keep {
			dev.way.leave()
		}
		return nil, err
	}
	go dev.serve()
	return link.NewConn(dev, link.MethodMQTT), nil
}

// reach returns the device's end of a connection that it can ask for, over a connection to the broker that was kept or
// is new.
func (d Dialer) reach(ctx context.Context, config BrokerConfig) (*device, error) {
	if w := d.Keeper.take(); w != nil {
		return w.device(connID{device: w.id}), nil
	}
	w := d.way(config)
	dev := w.device(connID{})
	cl, err := connect(ctx, config, Will{Topic: w.up, QoS: qos, Payload: farewell(w.id)}, w.receive)
	if err != nil {
		return nil, err
	}
	w.use(cl)
	if err := w.subscribe(ctx); err != nil {
		cl.disconnect()
		return nil, err
	}
	return dev, nil
}

// subscribe subscribes to what the server sends to this device, and to all.
func (w *way) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	if err := w.client.subscribe(ctx, w.down); err != nil {
		return err
	}
	// Not vital: without it the loss of the server is noticed later.
	if err := w.client.subscribe(ctx, w.status); err != nil {
		if ctx.Err() != nil || isLost(w.client) {
			return err
		}
		klog.FromContext(ctx).Error(err, "Will not be told at once when aranya is lost or starts anew")
	}
	return nil
}

// ask asks the server for a connection until it answers. One that has the device wait need not answer soon,
// but must show that it is still there.
func (d *device) ask(ctx context.Context) error {
	d.mu.Lock()
	request := d.encode(&frame{kind: frameOpen, maxPayload: uint64(d.way.limit), data: d.former.bytes()})
	d.mu.Unlock()
	interval, waits := 2*firstInterval, false
	timer, patience := time.NewTimer(firstInterval), time.NewTimer(openTime)
	defer timer.Stop()
	defer patience.Stop()
	for sent := d.way.client.publish(d.topic, request); ; {
		select {
		case err := <-d.answer:
			return err
		case <-d.wait:
			waits, interval = true, waitInterval
			timer.Reset(interval)
			patience.Reset(waitInterval + openTime)
			continue
		case spread := <-d.again:
			waits, interval = false, max(firstInterval, spread)
			timer.Reset(rand.N(spread + 1))
			patience.Reset(spread + openTime)
			continue
		case <-timer.C:
		case <-d.way.client.done:
			return d.way.client.lost()
		case <-patience.C:
			return d.giveUp(sent, waits, context.DeadlineExceeded)
		case <-ctx.Done():
			return d.giveUp(sent, waits, ctx.Err())
		}
		sent = d.way.client.publish(d.topic, request)
		timer.Reset(interval - interval/4 + rand.N(interval/2)) // not all at once
		if interval < openInterval {
			interval = min(2*interval, openInterval)
		}
	}
}

// giveUp is the error of a device that was not let in. It takes back what it has asked for.
func (d *device) giveUp(sent token, waits bool, err error) error {
	if err := failure(sent); err != nil {
		return err
	}
	d.way.client.await(d.way.client.publish(d.topic, farewell(d.id.device)))
	if waits {
		return fmt.Errorf("aranya is at the MQTT broker %s, but did not let this device in, because many others connect: %w", d.way.client.server, err)
	}
	messageNamespace, namespace, name, _ := splitUpTopic(d.topic)
	return fmt.Errorf("nobody answers at the MQTT broker %s on the topic %q: either aranya is not connected to this broker, "+
		"or no EdgeDevice %s/%s names it with the messageNamespace %q, or the broker's ACL forbids the topic: %w",
		d.way.client.server, d.topic, namespace, name, messageNamespace, err)
}

// isLost says whether the connection to the broker is over.
func isLost(cl *client) bool { return isClosed(cl.done) }

// failure is the error of a token that is done.
func failure(t token) error {
	if isDone(t) {
		return t.Error()
	}
	return nil
}

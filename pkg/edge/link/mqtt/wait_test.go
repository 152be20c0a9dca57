package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// ether is a paho.Client whose messages go to another end, without a broker or a network: with those, a clock
// cannot be faked.
type ether struct {
	paho.Client
	messages chan paho.Message
	cut      atomic.Bool
}

func newEther(t *testing.T, to func(paho.Message)) *ether {
	e := &ether{messages: make(chan paho.Message, 1024)}
	go func() {
		for m := range e.messages {
			to(m)
		}
	}()
	t.Cleanup(func() { close(e.messages) })
	return e
}

func (e *ether) Publish(topic string, _ byte, _ bool, payload any) paho.Token {
	if !e.cut.Load() {
		e.messages <- etherMessage{topic: topic, payload: payload.([]byte)}
	}
	return &paho.DummyToken{}
}

func (e *ether) Unsubscribe(...string) paho.Token { return &paho.DummyToken{} }
func (e *ether) Disconnect(uint)                  {}

type etherMessage struct {
	paho.Message
	topic   string
	payload []byte
}

func (m etherMessage) Topic() string   { return m.topic }
func (m etherMessage) Payload() []byte { return m.payload }
func (m etherMessage) Retained() bool  { return false }

// crowd is a server that many devices want to get in to, and one more device.
type crowd struct {
	*Broker
	device       *device
	up, down     *ether // from the device, and to it
	asked, waits int    // opens of the device, and answers to wait
}

// newCrowd has some devices before the one in question. None of them settles: each takes its whole time.
func newCrowd(t *testing.T, before int) *crowd {
	config, err := BrokerConfig{Server: "broker:1883"}.complete()
	if err != nil {
		t.Fatal(err)
	}
	begin, w := time.Now(), dialer("broker:1883", "patient").way(config)
	c := &crowd{Broker: newBroker(config), device: w.device(connID{})}
	c.entrance.letIn = func(r *request, e *entry) bool { return r.up != c.device.topic || c.letIn(r, e) }
	c.client = newClient("broker:1883")
	c.down = newEther(t, func(m paho.Message) {
		if f, ok := c.client.counters.decode(m.Payload(), maxPayload); ok && f.kind == frameWait {
			c.waits++
		}
		w.receive(m)
	})
	c.up = newEther(t, func(m paho.Message) {
		if f, ok := c.client.counters.decode(m.Payload(), maxPayload); ok && f.kind == frameOpen {
			c.asked++
		}
		c.receive(m)
	})
	c.client.paho = c.down
	c.work.Go(c.sendAnswers)
	c.work.Go(c.watch)
	t.Cleanup(func() { _ = c.Close() })
	cl := newClient("broker:1883")
	cl.paho = c.up
	w.use(cl)
	for i := range before {
		r := &request{up: fmt.Sprint(i)}
		c.entrance.ask(r)
		r.asked = begin.Add(time.Hour) // as if it asked again and again
	}
	return c
}

// TestWaitsBeyondOpenTime: a device that the server has told to wait does so for longer than it would ask
// without an answer, shows that it is there, and gets in when its turn comes.
func TestWaitsBeyondOpenTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const turns = 45
		c := newCrowd(t, turns*maxEntering)
		l := &listener{broker: c.Broker, messageNamespace: testNamespace, backlog: make(chan *conn, 1), ended: make(chan struct{})}
		if err := c.register(l); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := c.device.ask(t.Context()); err != nil {
			t.Fatalf("after %s: %v", time.Since(begin), err)
		}
		if waited := time.Since(begin); waited != turns*enteringTime || waited <= openTime {
			t.Errorf("it waited for %s", waited)
		}
		// It asked at first, when it had no answer for a moment perhaps, and every 40 s or so.
		if c.asked < 3 || c.asked > 4 || c.waits != c.asked {
			t.Errorf("it asked %d times, and was told to wait %d times", c.asked, c.waits)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go c.device.serve()
		var _ net.Conn = c.device
		echo(t, c.device, server)
		_, _ = c.device.Close(), server.Close()
	})
}

// TestStoppingServerIsSilent: a server that does not listen any more leaves it to the next one to answer.
func TestStoppingServerIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 0)
		l := &listener{broker: c.Broker, messageNamespace: testNamespace, backlog: make(chan *conn, 1), ended: make(chan struct{})}
		if err := c.register(l); err != nil {
			t.Fatal(err)
		}
		l.end(net.ErrClosed)
		if err := c.device.ask(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the device was told %v", err)
		}
		if n := c.stats().Refused; n != 0 {
			t.Errorf("%d refusals", n)
		}
	})
}

// TestWaitsForNobody: a device gives up when the server that told it to wait is not heard of any more. It says
// why, and loses its place.
func TestWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 100*maxEntering)
		if err := c.register(&listener{broker: c.Broker, messageNamespace: testNamespace, ended: make(chan struct{})}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		const cut = openTime + waitInterval/2
		time.AfterFunc(cut, func() { c.down.cut.Store(true) })
		err := c.device.ask(t.Context())
		if err == nil || !strings.Contains(err.Error(), "many others connect") || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
			t.Errorf("it was told %v", err)
		}
		// The last answer was at most one interval before the cut, and good for another and openTime.
		if waited := time.Since(begin); waited < cut+openTime || waited > cut+waitInterval+openTime {
			t.Errorf("it waited for %s", waited)
		}
		synctest.Wait()
		c.entrance.mu.Lock()
		defer c.entrance.mu.Unlock()
		if c.entrance.waiting[c.device.topic] != nil {
			t.Error("it still has a place")
		}
	})
}

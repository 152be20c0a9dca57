package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
	"arhat.dev/aranya/test/framework/eventually"
)

// restingEnd is one end of a parked link.
type restingEnd struct {
	link.Parked
	notes chan string
	lost  chan error
}

func park(t *testing.T, c *link.Conn) *restingEnd {
	t.Helper()
	e := &restingEnd{notes: make(chan string, 16), lost: make(chan error, 1)}
	var err error
	if e.Parked, err = c.Park(func(n []byte) { e.notes <- string(n) }, func(err error) { e.lost <- err }); err != nil {
		t.Fatal(err)
	}
	return e
}

// parkPair parks both ends and closes the connection.
func parkPair(t *testing.T, device, server *link.Conn) (d, s *restingEnd) {
	t.Helper()
	d, s = park(t, device), park(t, server)
	_ = server.Close()
	if _, err := device.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the connection ended with %v", err)
	}
	_ = device.Close()
	return d, s
}

func next[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// resume makes the next connection of a parked device.
func resume(t *testing.T, d *restingEnd, l net.Listener) (device, server *link.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	device, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	return device, next(t, accepted, "the next connection").(*link.Conn)
}

// Notes go both ways while the device is parked, and further connections come over the same way.
func TestParked(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	client, server := connectPair(t, dialer(m.Address, "a"), l)
	if !client.CanPark() || !server.CanPark() {
		t.Fatal("MQTT cannot be parked")
	}
	before := client.Conn.(*device).way.client
	for i := range 3 {
		echo(t, client, server)
		d, s := parkPair(t, client, server)
		s.Note([]byte(fmt.Sprint("down ", i)))
		if got := next(t, d.notes, "a note"); got != fmt.Sprint("down ", i) {
			t.Errorf("the device heard %q", got)
		}
		d.Note([]byte(fmt.Sprint("up ", i)))
		if got := next(t, s.notes, "a note"); got != fmt.Sprint("up ", i) {
			t.Errorf("the server heard %q", got)
		}
		client, server = resume(t, d, l)
		s.Close()
	}
	echo(t, client, server)
	if client.Conn.(*device).way.client != before {
		t.Error("the device has connected to the broker anew")
	}
	_ = client.Close()
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("the server was not told")
	}
	if s := b.stats(); s.Malformed != 0 || s.Gaps != 0 {
		t.Errorf("the server counted %+v", s)
	}
}

// What ends touch is told to the other end at once.
func TestParkedLost(t *testing.T) {
	for name, tt := range map[string]struct {
		end            func(d, s *restingEnd, conn *link.Conn, b *Broker, m *brokertest.Mosquitto)
		device, server string // what is told to them, empty for nothing
	}{
		"the device leaves": {func(d, _ *restingEnd, _ *link.Conn, _ *Broker, _ *brokertest.Mosquitto) { d.Close() }, "", "is gone"},
		"the device is lost": {func(_, _ *restingEnd, conn *link.Conn, _ *Broker, _ *brokertest.Mosquitto) {
			_ = breakNetwork(t, conn.Conn.(*device).way.client)
		}, "", "is gone"},
		"the server stops": {func(_, _ *restingEnd, _ *link.Conn, b *Broker, _ *brokertest.Mosquitto) { _ = b.Close() }, "is gone", "is down"},
		"the server is lost": {func(_, _ *restingEnd, _ *link.Conn, b *Broker, _ *brokertest.Mosquitto) {
			_ = breakNetwork(t, b.client)
		}, "is gone", ""},
		"the broker is lost": {func(_, _ *restingEnd, _ *link.Conn, _ *Broker, m *brokertest.Mosquitto) { m.Stop() }, "is down", "is down"},
		"the server does not know": {func(d, s *restingEnd, _ *link.Conn, _ *Broker, _ *brokertest.Mosquitto) {
			s.Close()
			d.Note([]byte("anybody there?"))
		}, "does not know", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := brokertest.Start(t, "")
			b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
			device, server := connectPair(t, dialer(m.Address, "a"), l)
			d, s := parkPair(t, device, server)
			tt.end(d, s, device, b, m)
			if tt.device != "" {
				if err := next(t, d.lost, "the device to notice"); !strings.Contains(err.Error(), tt.device) {
					t.Errorf("the device was told: %v", err)
				}
			}
			if tt.server != "" {
				if err := next(t, s.lost, "the server to notice"); !strings.Contains(err.Error(), tt.server) {
					t.Errorf("the server was told: %v", err)
				}
			}
			d.Close()
			s.Close()
		})
	}
}

// A device that cannot resume is lost to the server, too.
func TestParkedCannotResume(t *testing.T) {
	m := brokertest.Start(t, "")
	refuse := make(chan struct{})
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{Admit: func(string, string) error {
		select {
		case <-refuse:
			return errors.New("not now")
		default:
			return nil
		}
	}})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	d, s := parkPair(t, device, server)
	close(refuse)
	if _, err := d.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Errorf("resumed, error %v", err)
	}
	_ = next(t, s.lost, "the server to notice")
}

// A device resumes at the server where it is parked, though others hear it, too.
func TestResumesAtItsServer(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address, Instance: "its"}, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	other, _ := serve(t, BrokerConfig{Server: m.Address, Instance: "another"}, ListenOptions{})
	for range 8 {
		d, s := parkPair(t, device, server)
		device, server = resume(t, d, l)
		s.Close()
		echo(t, device, server)
	}
	eventually.Succeeds(t, func() error {
		if other.stats().Foreign == 0 {
			return errors.New("the other server has heard nothing")
		}
		return nil
	})
}

// A device that was parked at a server that is not there any more is told so by the next one of this name.
func TestResumesAtFormerServer(t *testing.T) {
	m := brokertest.Start(t, "")
	config := BrokerConfig{Server: m.Address, Instance: "replica-0"}
	_, l := serve(t, config, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	d, _ := parkPair(t, device, server)
	d.Parked.(*deviceParked).server ^= 2 // as if it had not heard of the new one
	if _, err := d.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), errNotKnown.Error()) {
		t.Errorf("resumed, error %v", err)
	}
}

// A device that resumes hears that its server is lost. That another one comes is none of its business.
func TestServerLostWhileResuming(t *testing.T) {
	const its = 7<<32 | 1
	for name, tt := range map[string]struct {
		told frame
		want error
	}{
		"gone":          {frame{kind: frameGone, id: connID{server: its}}, errPeerGone},
		"anew":          {frame{kind: frameHello, id: connID{server: its + 2}}, errRestarted},
		"another gone":  {frame{kind: frameGone, id: connID{server: its + 1<<32}}, nil},
		"another comes": {frame{kind: frameHello, id: connID{server: its + 1<<32}}, nil},
	} {
		dev := dialer("broker:1883", "a").way(BrokerConfig{}).device(connID{device: 1, server: its})
		dev.receiveStatus(&tt.told)
		var err error
		select {
		case err = <-dev.answer:
		default:
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A device does not ask a server of whose loss it has heard before.
func TestLostBeforeItResumes(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	d, _ := parkPair(t, device, server)
	d.Parked.(*deviceParked).lose(errPeerGone)
	if _, err := d.Dial(t.Context()); !errors.Is(err, errLostTouch) {
		t.Errorf("resumed, error %v", err)
	}
}

// A resumed connection is found by the broker's will, which names the first one.
func TestResumedIsLost(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	first, server := connectPair(t, dialer(m.Address, "a"), l)
	d, s := parkPair(t, first, server)
	again, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	_ = breakNetwork(t, again.Conn.(*device).way.client)
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("the server was told: %v", err)
	}
}

// A connection is parked once, and only where the transport knows how to.
func TestParkTwice(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	d := park(t, device)
	if _, err := device.Park(nil, nil); err == nil {
		t.Error("parked twice")
	}
	_ = server.Close()
	_ = device.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Dial(ctx); err == nil {
		t.Error("dialled after the context had ended")
	}
}

// What was lost before it is parked cannot be parked: nobody would tell of the loss any more.
func TestLostIsNotParked(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	end, server := connectPair(t, dialer(m.Address, "a"), l)
	_ = breakNetwork(t, end.Conn.(*device).way.client)
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, errPeerGone) {
		t.Fatalf("the server's end: %v", err)
	}
	if _, err := server.Park(func([]byte) {}, func(error) {}); !errors.Is(err, errPeerGone) {
		t.Errorf("parked, error %v", err)
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if len(b.parked) != 0 {
		t.Error("what was not parked is kept")
	}
}

// Notes to many devices are spread: all of them answer.
func TestNotesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q noteQueue
		begin := time.Now()
		for i := range noteBurst + 2*noteRate {
			if sender, ok := q.put(&parked{}, &frame{}); !ok || sender != (i == 0) {
				t.Fatalf("note %d: sender %t, ok %t", i, sender, ok)
			}
		}
		sent := 0
		for {
			_, wait, ok := q.next()
			if !ok {
				break
			}
			time.Sleep(wait)
			sent++
		}
		if took := time.Since(begin).Round(100 * time.Millisecond); sent != noteBurst+2*noteRate || took != 2*time.Second {
			t.Errorf("%d notes took %s", sent, took)
		}
		for i := 0; ; i++ {
			if _, ok := q.put(&parked{}, &frame{}); !ok {
				if i != maxNotes {
					t.Errorf("%d notes may wait", i)
				}
				return
			}
		}
	})
}

// One note waits for each device, the last one.
func TestLastNoteWaits(t *testing.T) {
	var q noteQueue
	a, b := &parked{down: "a"}, &parked{down: "b"}
	sent := func() string {
		answer, _, ok := q.next()
		if !ok {
			return "nothing"
		}
		return answer.topic + string(answer.frame.data)
	}
	for range 2 {
		for _, note := range []struct {
			to   *parked
			data string
		}{{a, "1"}, {b, "1"}, {a, "2"}, {a, "3"}} {
			if _, ok := q.put(note.to, &frame{data: []byte(note.data)}); !ok {
				t.Error("no room")
			}
		}
		for _, want := range []string{"a3", "b1", "nothing"} {
			if got := sent(); got != want {
				t.Errorf("sent %s, want %s", got, want)
			}
		}
	}
}

package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
	"arhat.dev/aranya/test/framework/eventually"
)

// rounds is how often the ends of a link talk before a device is in, as the handshakes of TLS and HTTP/2 do.
const rounds = 4

// TestRush: more devices wait for a server than its broker queues messages for it. They all come when it
// does, and none loses a frame, which would be the end of its connection.
func TestRush(t *testing.T) {
	devices := 1500
	if testing.Short() {
		devices = 100
	}
	m := brokertest.Start(t, "log_type subscribe\nlog_type notice\n")
	var dials errgroup.Group
	var failed atomic.Int64
	for i := range devices {
		d := dialer(m.Address, fmt.Sprintf("d%d", i))
		dials.Go(func() error {
			for {
				err := visit(t.Context(), d)
				if err == nil || failed.Add(1) > int64(devices) {
					return err
				}
			}
		})
	}
	eventually.Succeeds(t, func() error {
		if n := strings.Count(m.Log(), " 1 "+statusTopic(testNamespace)); n < devices {
			return fmt.Errorf("%d of %d devices have subscribed", n, devices)
		}
		return nil
	})

	// They come ten times as fast as they should.
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{Devices: devices / 10})
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { welcome(c) })
		}
	})
	if err := dials.Wait(); err != nil {
		t.Error(err)
	}
	_ = l.Close()
	serving.Wait()
	// On a machine that is busy with other things the broker may have to drop some nevertheless; if all came at once it
	// would drop those of a third and more.
	if n := failed.Load(); n > int64(devices/5) {
		t.Errorf("%d times a device of %d had to come again: %+v", n, devices, b.stats())
	}
}

// TestWaiting: those who are on their way in hold up others, but not for one that has left.
func TestWaiting(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	b.entrance.mu.Lock()
	for i := range maxEntering - 1 {
		b.entrance.enterLocked(fmt.Sprint(i)).timer.Stop() // for ever
	}
	b.entrance.mu.Unlock()
	_, first := connectPair(t, dialer(m.Address, "first"), l)
	waiting := func(n int) {
		t.Helper()
		eventually.Succeeds(t, func() error {
			b.entrance.mu.Lock()
			defer b.entrance.mu.Unlock()
			if len(b.entrance.waiting) != n {
				return fmt.Errorf("%d devices wait, not %d", len(b.entrance.waiting), n)
			}
			return nil
		})
	}
	keep := func() { // the first one's place, beyond enteringTime
		b.entrance.mu.Lock()
		defer b.entrance.mu.Unlock()
		for _, e := range b.entrance.entering {
			e.timer.Stop()
		}
	}
	keep()

	ctx, leave := context.WithCancel(t.Context())
	impatient := make(chan error, 1)
	go func() {
		_, err := dialer(m.Address, "impatient").Dial(ctx, "")
		impatient <- err
	}()
	waiting(1)
	patient := make(chan error, 1)
	go func() { patient <- visit(t.Context(), dialer(m.Address, "patient")) }()
	waiting(2)
	leave()
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("the device that did not wait: %v", err)
	}
	waiting(1)
	first.Settled()
	c, err := l.Accept()
	if err != nil || !strings.Contains(c.RemoteAddr().String(), "/patient/") {
		t.Fatalf("%v was let in, error %v", c, err)
	}
	welcome(c)
	if err := <-patient; err != nil {
		t.Error(err)
	}
}

func visit(ctx context.Context, d Dialer) error {
	c, err := d.Dial(ctx, "")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for range rounds {
		if err := errors.Join(say(c), hear(c)); err != nil {
			return err
		}
	}
	return nil
}

func welcome(c net.Conn) {
	defer func() { _ = c.Close() }()
	for range rounds {
		if hear(c) != nil || say(c) != nil {
			return
		}
	}
	c.(*link.Conn).Settled()
	_, _ = c.Read(make([]byte, 1)) // until the device leaves
}

func say(c net.Conn) error {
	_, err := c.Write(make([]byte, 100))
	return err
}

func hear(c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 100))
	return err
}

package mqtt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt/brokertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNamespace is the one whose devices the broker tells that the server is gone.
const testNamespace = DefaultMessageNamespace

// serve connects a server to a broker.
func serve(t testing.TB, config BrokerConfig, o ListenOptions) (*Broker, net.Listener) {
	t.Helper()
	b, err := Connect(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	l, err := b.Listen(t.Context(), testNamespace, o)
	if err != nil {
		t.Fatal(err)
	}
	return b, l
}

func dialer(address, name string) Dialer {
	return Dialer{
		Broker:           BrokerConfig{Server: address, KeepAlive: 60 * time.Second},
		MessageNamespace: testNamespace, Namespace: "default", Name: name,
	}
}

// connectPair dials a device's connection and accepts it.
func connectPair(t testing.TB, d Dialer, l net.Listener) (device, server *link.Conn) {
	t.Helper()
	device, err := d.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return device, c.(*link.Conn)
}

func TestBytes(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	if device.Method() != link.MethodMQTT || server.Method() != link.MethodMQTT {
		t.Errorf("methods %s and %s", device.Method(), server.Method())
	}
	if want := m.Address + testNamespace + "/default/a/up"; server.RemoteAddr().String() != want {
		t.Errorf("the device is at %s, not %s", server.RemoteAddr(), want)
	}
	for _, dir := range []struct{ from, to net.Conn }{{device, server}, {server, device}} {
		data := bytes.Repeat([]byte("0123456789abcdef"), 512<<10) // 8 MiB
		go func() {
			for i := 0; i < len(data); i += 100_003 {
				if _, err := dir.from.Write(data[i:min(len(data), i+100_003)]); err != nil {
					t.Error(err)
				}
			}
		}()
		sum := sha256.New()
		if _, err := io.CopyN(sum, dir.to, int64(len(data))); err != nil {
			t.Fatal(err)
		}
		if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
			t.Fatal("other bytes arrived than were sent")
		}
	}
	if _, err := device.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if err := device.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(server); err != nil || string(got) != "last words" {
		t.Errorf("after a close: %q, %v", got, err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, errPeerClosed) {
		t.Errorf("writing to a peer that closed: %v", err)
	}
	s := b.stats()
	// A device that is told of the server while it asks for the connection asks once more.
	s.Duplicates = max(s.Duplicates-1, 0)
	if s != (stats{}) {
		t.Errorf("something was not taken: %+v", s)
	}
}

func TestOtherMessageNamespace(t *testing.T) {
	const other = "/test/links"
	m := brokertest.Start(t, "")
	b, _ := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	l, err := b.Listen(t.Context(), other, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := dialer(m.Address, "a")
	d.MessageNamespace = other
	device, server := connectPair(t, d, l)
	if want := m.Address + other + "/default/a/up"; server.RemoteAddr().String() != want {
		t.Errorf("the device is at %s, want %s", server.RemoteAddr(), want)
	}
	if _, err := device.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestServerCloses(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	_, _ = server.Write([]byte("bye"))
	_ = server.Close()
	if got, err := io.ReadAll(device); err != nil || string(got) != "bye" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading what was closed: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	m := brokertest.Start(t, "")
	_, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	_ = device.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := device.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read past its deadline: %v", err)
	}
	_ = device.SetDeadline(time.Time{})
	_ = device.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	n, err := device.Write(make([]byte, 16<<20)) // nobody reads
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write past its deadline: %v", err)
	}
	if n < windowBytes || n > windowBytes+2*sendBuffer {
		t.Errorf("%d bytes were taken for a reader that stalls", n)
	}
	_ = device.SetWriteDeadline(time.Time{})
	if _, err := io.CopyN(io.Discard, server, int64(n)); err != nil {
		t.Errorf("the connection is not usable after a deadline: %v", err)
	}
}

func TestBrokerLost(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	device, server := connectPair(t, dialer(m.Address, "a"), l)
	m.Stop()
	for _, c := range []net.Conn{device, server} {
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "broker "+m.Address+" is down") {
			t.Errorf("the error is %v", err)
		}
	}
	if _, err := l.Accept(); err == nil || !strings.Contains(err.Error(), "is down") {
		t.Errorf("Accept: %v", err)
	}
	<-b.Done()
	if b.Err() == nil {
		t.Error("no reason")
	}
	m.Start()
	_, l = serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	connectPair(t, dialer(m.Address, "a"), l)
}

func TestWills(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	deviceEnd, server := connectPair(t, dialer(m.Address, "a"), l)
	other, _ := connectPair(t, dialer(m.Address, "b"), l)

	// The network of the device breaks: the broker tells the server.
	_ = breakNetwork(t, deviceEnd.Conn.(*device).way.client)
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, errPeerGone) {
		t.Errorf("the server's end: %v", err)
	}
	// The same of the server.
	_ = breakNetwork(t, b.client)
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, errPeerGone) {
		t.Errorf("the device's end: %v", err)
	}
}

func TestServerRestarts(t *testing.T) {
	m := brokertest.Start(t, "")
	config := BrokerConfig{Server: m.Address, Instance: "replica-0", Will: &Will{Topic: "elsewhere", Payload: []byte("gone")}}
	b, l := serve(t, config, ListenOptions{})
	device, _ := connectPair(t, dialer(m.Address, "a"), l)
	_ = breakNetwork(t, b.client) // the will is another's
	serve(t, config, ListenOptions{})
	if _, err := device.Read(make([]byte, 1)); !errors.Is(err, errRestarted) {
		t.Errorf("the device's end: %v", err)
	}
}

func TestServerLeaves(t *testing.T) {
	m := brokertest.Start(t, "")
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{})
	device, _ := connectPair(t, dialer(m.Address, "a"), l)
	_ = b.Close()
	if _, err := device.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the device's end: %v", err)
	}
}

// A device that the server has not heard of yet comes in as soon as it has.
func TestAdmittedLater(t *testing.T) {
	m := brokertest.Start(t, "")
	var asked atomic.Int32
	b, l := serve(t, BrokerConfig{Server: m.Address}, ListenOptions{Admit: func(string, string) error {
		if asked.Add(1) < 3 {
			return ErrLater
		}
		return nil
	}})
	connectPair(t, dialer(m.Address, "a"), l)
	if n := asked.Load(); n != 3 || b.stats().Refused != 0 {
		t.Errorf("asked %d times, %d refusals", n, b.stats().Refused)
	}
}

func TestRefusals(t *testing.T) {
	m := brokertest.Start(t, "")
	_, _ = serve(t, BrokerConfig{Server: m.Address}, ListenOptions{
		Admit: func(namespace, name string) error {
			return fmt.Errorf("there is no EdgeDevice %s/%s%s: see its spec", namespace, name, strings.Repeat(" at all", 20))
		},
	})
	if _, err := dialer(m.Address, "a").Dial(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "there is no EdgeDevice default/a") ||
		!strings.Contains(err.Error(), "see its spec") {
		t.Errorf("not admitted: %v", err)
	}
	nobody := dialer(m.Address, "a")
	nobody.MessageNamespace = "/elsewhere"
	if _, err := withTimeout(t, nobody, 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "nobody answers") ||
		!strings.Contains(err.Error(), `no EdgeDevice default/a names it with the messageNamespace "/elsewhere"`) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := dialer(brokertest.FreeAddress(t), "a").Dial(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("no broker: %v", err)
	}
	if _, err := dialer(m.Address, "A B").Dial(t.Context(), ""); err == nil {
		t.Error("an impossible name was accepted")
	}
}

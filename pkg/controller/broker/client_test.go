package broker

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// TestGatewayStops: that aranya stops is no fault of the broker, whose devices would be told of it.
func TestGatewayStops(t *testing.T) {
	w := newWorld(t)
	w.device("ns", "a", plain)
	w.Eventually("connected", func() bool { return w.state("ns", "a").Connected })
	b := w.live()[0]
	close(w.stopping)
	w.Eventually("no longer served", func() bool { return len(b.namespaces()) == 0 })
	// The client goes on, as it does for a while until the pool stops, too.
	w.device("ns", "b", func(c *aranya.MQTTConfig) { c.MessageNamespace = "/other" })
	w.Eventually("assigned", func() bool { return w.state("ns", "b").Connected })
	if live := w.live(); !slices.Equal(live, []*fakeBroker{b}) {
		t.Error("the client connected anew")
	}
	if s := w.state("ns", "a"); !s.Connected {
		t.Errorf("the state is %+v", s)
	}
}

func TestBrokerDown(t *testing.T) {
	w := newWorld(t)
	w.refuse["down:1883"] = errors.New("not authorized")
	w.device("ns", "d", func(c *aranya.MQTTConfig) { c.Server = "down:1883" })
	w.device("ns", "well", plain)
	w.Eventually("the broker's reason is told", func() bool {
		s := w.state("ns", "d")
		return !s.Connected && s.Reason == ReasonUnavailable && strings.Contains(s.Message, "down:1883") && strings.Contains(s.Message, "not authorized")
	})
	w.Eventually("the other broker is not affected", func() bool { return w.state("ns", "well").Connected })
	w.mu.Lock()
	delete(w.refuse, "down:1883")
	w.mu.Unlock()
	w.Eventually("connected by itself", func() bool { return w.state("ns", "d").Connected })
	w.mu.Lock()
	w.refuse["down:1883"] = errors.New("connection refused")
	w.mu.Unlock()
	for _, b := range w.live() {
		if b.config.Server == "down:1883" {
			b.lose(errors.New("EOF"))
		}
	}
	w.Eventually("lost", func() bool { return strings.Contains(w.state("ns", "d").Message, "connection refused") })
	if !w.state("ns", "well").Connected {
		t.Error("the other broker is affected")
	}
}

// TestBrokerRestarts: that a broker is away for a moment is not told to its many devices, each of which would be written.
func TestBrokerRestarts(t *testing.T) {
	w := newWorld(t)
	w.pool.patienceFor = func(int) time.Duration { return time.Hour }
	w.device("ns", "d", plain)
	w.Eventually("connected", func() bool { return w.state("ns", "d").Connected })
	fail := func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refuse["broker:8883"], w.refused, w.changed = err, 0, 0
	}
	fail(errors.New("connection refused"))
	w.live()[0].lose(errors.New("EOF"))
	w.Eventually("tried several times", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.refused > 3
	})
	if s := w.state("ns", "d"); !s.Connected {
		t.Errorf("told %+v", s)
	}
	fail(nil)
	w.Eventually("connected anew", func() bool { return len(w.live()) == 1 && len(w.live()[0].namespaces()) == 1 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed > 0 {
		t.Errorf("told %d times of changes", w.changed)
	}
}

// port is the address that a connection comes from, another one each time.
type port struct{ atomic.Int32 }

func (p *port) Network() string { return "tcp" }
func (p *port) String() string  { return fmt.Sprintf("10.0.0.7:%d", 40000+p.Add(1)) }

// TestSameCause: that a broker is still away, for the same reason, is not told again.
func TestSameCause(t *testing.T) {
	w := newWorld(t)
	broker := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 8883}
	w.refuse["broker:8883"] = &net.OpError{Op: "read", Net: "tcp", Source: &port{}, Addr: broker, Err: syscall.ECONNRESET}
	w.device("ns", "d", plain)
	w.Eventually("told", func() bool { return w.state("ns", "d").Reason == ReasonUnavailable })
	w.mu.Lock()
	w.refused, w.changed = 0, 0
	w.mu.Unlock()
	w.Eventually("tried several times", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.refused > 3
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed > 0 {
		t.Errorf("told %d times of the same", w.changed)
	}
}

func TestCause(t *testing.T) {
	v4, v6 := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 57584}, &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 57584}
	to4, to6 := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 8883}, &net.TCPAddr{IP: net.ParseIP("fd00::9"), Port: 8883}
	lookup := &net.DNSError{Name: "broker", Server: "10.96.0.10:53", Err: "read udp 10.0.0.7:41234->10.96.0.10:53: i/o timeout"}
	for _, test := range []struct {
		name, want string
		err        error
	}{
		{"reset", "read tcp 10.0.0.9:8883: connection reset by peer",
			&net.OpError{Op: "read", Net: "tcp", Source: v4, Addr: to4, Err: syscall.ECONNRESET}},
		{"IPv6", "read tcp [fd00::9]:8883: connection reset by peer",
			&net.OpError{Op: "read", Net: "tcp", Source: v6, Addr: to6, Err: syscall.ECONNRESET}},
		{"wrapped", "TLS with the broker: write tcp 10.0.0.9:8883: broken pipe",
			fmt.Errorf("TLS with the broker: %w", &net.OpError{Op: "write", Net: "tcp", Source: v4, Addr: to4, Err: syscall.EPIPE})},
		{"text", "the connection was lost: read tcp 10.0.0.9:8883: connection reset by peer",
			errors.New("the connection was lost: read tcp 10.0.0.7:57584->10.0.0.9:8883: connection reset by peer")},
		{"dialling", "dial tcp 10.0.0.9:8883: connection refused",
			&net.OpError{Op: "dial", Net: "tcp", Source: v4, Addr: to4, Err: syscall.ECONNREFUSED}},
		{"DNS", "dial tcp: lookup broker on 10.96.0.10:53: read udp 10.96.0.10:53: i/o timeout",
			&net.OpError{Op: "dial", Net: "tcp", Err: lookup}},
		{"certificate", "x509: certificate has expired or is not yet valid: current time is after 2026-11-01T00:00:00Z",
			x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2026-11-27T02:50:46Z is after 2026-11-01T00:00:00Z"}},
		{"nothing differs", "the broker refuses the user name or password", errors.New("the broker refuses the user name or password")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := cause(test.err); got != test.want {
				t.Errorf("%q instead of %q", got, test.want)
			}
		})
	}
}

func TestSubscriptionRefused(t *testing.T) {
	w := newWorld(t)
	w.deny["/forbidden"] = errors.New("not authorized")
	w.device("ns", "d", func(c *aranya.MQTTConfig) { c.MessageNamespace = "/forbidden" })
	w.device("ns", "well", plain)
	w.Eventually("told", func() bool {
		return strings.Contains(w.state("ns", "d").Message, "/forbidden") && !w.state("ns", "d").Connected
	})
	w.Eventually("others on the same client work", func() bool { return w.state("ns", "well").Connected && len(w.live()) == 1 })
	for _, b := range w.live() {
		b.mu.Lock()
		b.deny = nil
		b.mu.Unlock()
	}
	w.Eventually("tried again", func() bool { return w.state("ns", "d").Connected })
}

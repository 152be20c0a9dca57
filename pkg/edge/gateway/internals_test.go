package gateway

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func message(uid string, size int) *edgeapi.ServerMessage {
	return &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_RunPod{RunPod: &edgeapi.RunPod{Uid: uid, Pod: make([]byte, size)}}}
}

func TestOutbox(t *testing.T) {
	var sent []string
	var work []func()
	send := func(m *edgeapi.ServerMessage) error { sent = append(sent, m.GetRunPod().GetUid()); return nil }
	o := &outbox{
		fail:  func(err error) { t.Errorf("fail: %v", err) },
		spawn: func(f func()) { work = append(work, f) },
	}
	put := func(m *edgeapi.ServerMessage, urgent bool, want error) {
		t.Helper()
		if err := o.put(m, urgent); !errors.Is(err, want) {
			t.Errorf("put: %v, expected %v", err, want)
		}
	}
	put(message("a", 1), false, nil)
	put(message("b", 1), false, nil)
	put(message("urgent", 1), true, nil)
	if len(work) != 0 {
		t.Fatal("sent before it was open")
	}
	o.open(send)
	if len(work) != 1 {
		t.Fatalf("%d goroutines", len(work))
	}
	put(message("c", 1), false, nil)
	work[0]()
	if got := strings.Join(sent, " "); got != "urgent a b c" || len(work) != 1 {
		t.Errorf("sent %s by %d goroutines", got, len(work))
	}

	// A limit by size, which one large message may fill alone.
	put(message("big", maxQueuedBytes-1000), false, nil)
	put(message("more", 2000), false, ErrBusy)
	put(message("small", 10), false, nil)
	work[1]()
	for range maxQueued {
		put(message("x", 0), false, nil)
	}
	put(message("x", 0), false, ErrBusy)
	for range maxUrgent {
		put(message("x", 0), true, nil)
	}
	put(message("x", 0), true, ErrBusy)
	put(message("huge", edgeapi.MaxServerMessage), false, ErrTooLarge)
	o.close()
	sent = nil
	work[2]()
	if len(sent) != 0 {
		t.Error("sent after the end")
	}
	put(message("x", 0), false, ErrClosed)
}

func TestOutboxFailure(t *testing.T) {
	failed := 0
	o := &outbox{
		fail:  func(error) { failed++ },
		spawn: func(func()) {}, // drain is called below
	}
	o.open(func(*edgeapi.ServerMessage) error { return errors.New("broken") })
	_ = o.put(message("a", 1), false)
	_ = o.put(message("b", 1), false)
	o.drain()
	if failed != 1 {
		t.Errorf("failed %d times", failed)
	}
}

// An outbox that is shut sends what is under way, keeps what comes later, and says so; the next one to send gets it.
func TestOutboxShut(t *testing.T) {
	wakes := 0
	begun, goOn := make(chan struct{}), make(chan struct{})
	var first, second []string
	o := &outbox{
		fail:  func(err error) { t.Errorf("fail: %v", err) },
		spawn: func(f func()) { go f() },
		wake:  func() { wakes++ },
	}
	o.open(func(m *edgeapi.ServerMessage) error {
		close(begun)
		<-goOn
		first = append(first, m.GetRunPod().GetUid())
		return nil
	})
	_ = o.put(message("a", 1), false)
	<-begun
	_ = o.put(message("b", 1), false)
	shut := make(chan struct{})
	go func() {
		defer close(shut)
		o.shut()
	}()
	for { // until it has begun
		o.mu.Lock()
		waits := o.idle != nil
		o.mu.Unlock()
		if waits {
			break
		}
		runtime.Gosched()
	}
	select {
	case <-shut:
		t.Fatal("shut before the message under way was sent")
	default:
	}
	close(goOn)
	<-shut
	if !o.waiting() || wakes != 0 {
		t.Errorf("waiting %t, %d wakes", o.waiting(), wakes)
	}
	_ = o.put(message("c", 1), false)
	_ = o.put(message("urgent", 1), true)
	if wakes != 2 {
		t.Errorf("%d wakes", wakes)
	}
	done := make(chan struct{})
	o.open(func(m *edgeapi.ServerMessage) error {
		if second = append(second, m.GetRunPod().GetUid()); len(second) == 3 {
			close(done)
		}
		return nil
	})
	<-done
	if got := strings.Join(first, " ") + "; " + strings.Join(second, " "); got != "a; urgent b c" {
		t.Errorf("sent %s", got)
	}
	if _ = o.put(message("d", 1), false); wakes != 2 {
		t.Error("woken while it is open")
	}
}

func TestFailureLimiter(t *testing.T) {
	f := newFailureLimiter()
	a := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}
	for i := 0; f.allowed(a); i++ {
		f.failed(a)
		if i > 10*failureBurst {
			t.Fatal("never limited")
		}
	}
	if f.allowed(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 2}) {
		t.Error("another port is another address")
	}
	if !f.allowed(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 1}) {
		t.Error("another address is limited as well")
	}
	for i := range addressesTracked + 100 {
		f.failed(&net.TCPAddr{IP: net.IPv4(11, byte(i>>16), byte(i>>8), byte(i)), Port: 1})
	}
	if n := f.addresses.Len(); n > addressesTracked {
		t.Errorf("%d addresses are remembered", n)
	}
}

// A stranger is read up to a limit; more is left in the network until the device is admitted.
func TestReadBudget(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, admit := range map[string]bool{"admitted": true, "closed": false} {
		t.Run(name, func(t *testing.T) {
			client, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			c, err := (&deviceListener{Listener: l, gateway: &Gateway{}}).Accept()
			if err != nil {
				t.Fatal(err)
			}
			dc := c.(*deviceConn)
			defer dc.Close()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = client.Write(make([]byte, connectBytes+1000))
			}()
			if _, err := io.ReadFull(dc, make([]byte, connectBytes)); err != nil {
				t.Fatal(err)
			}
			rest := make(chan error, 1)
			go func() { _, err := io.ReadFull(dc, make([]byte, 1000)); rest <- err }()
			<-sent
			select {
			case err := <-rest:
				t.Fatalf("more was read before the device was admitted: %v", err)
			case <-time.After(20 * time.Millisecond): // a failure may be missed, never made up
			}
			if admit {
				dc.admit()
			} else {
				_ = dc.Close()
			}
			if err := <-rest; (err == nil) != admit {
				t.Errorf("read: %v", err)
			}
		})
	}
}

func TestNetworkOf(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.2.3:99":                "10.1.2.3",
		"[::ffff:10.1.2.3]:99":       "10.1.2.3",
		"[2001:db8:1:2:3:4:5:6]:1":   "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::1]:443": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1":           "fe80::/64",
		"broker/topic":               "broker/topic",
	} {
		if got := networkOf(addr(in)); got != want {
			t.Errorf("%s: %s, expected %s", in, got, want)
		}
	}
}

// Sessions returns all live links, in no order.
func (g *Gateway) Sessions() []Session {
	all := g.registry.all()
	sessions := make([]Session, 0, len(all))
	for _, s := range all {
		sessions = append(sessions, s)
	}
	return sessions
}

// A replica has the same name in another cluster, and the same CA in every replica of one.
func TestName(t *testing.T) {
	cas := [2]*Authority{NewTestAuthority(t), NewTestAuthority(t)}
	name := func(ca *Authority, replica string) string {
		return (&Gateway{config: Config{Authority: ca, Replica: replica}}).Name()
	}
	this := name(cas[0], "a")
	if name(cas[0], "a") != this || name(cas[1], "a") == this || name(cas[0], "b") == this {
		t.Errorf("names %q, %q, %q and %q", this, name(cas[0], "a"), name(cas[1], "a"), name(cas[0], "b"))
	}
}

type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }

// The state of a TLS connection names the certificates that the connection itself holds: what is forgotten
// there is free.
func TestForgetCertificates(t *testing.T) {
	cert, key, err := makeAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	own := []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	near, far := net.Pipe()
	device := tls.Client(far, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: own, InsecureSkipVerify: true})
	go func() {
		_ = device.Handshake()
		_, _ = io.Copy(io.Discard, device)
	}()
	conn := tls.Server(near, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: own, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true})
	defer func() { _ = conn.Close() }()
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	state := conn.ConnectionState()
	if len(state.PeerCertificates) != 1 || !state.PeerCertificates[0].Equal(cert) {
		t.Fatalf("%d certificates", len(state.PeerCertificates))
	}
	forgetCertificates(state)
	for _, held := range conn.ConnectionState().PeerCertificates {
		if held != forgotten {
			t.Errorf("the connection holds on to the certificate of %s", held.Subject)
		}
	}
	if _, err := conn.Write([]byte("still works")); err != nil {
		t.Error(err)
	}
}

package links

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/mqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// switchable is a link that works or not.
type switchable struct {
	up    bool
	dials int
}

func (s *switchable) Dial(context.Context, string) (*link.Conn, error) {
	s.dials++
	if !s.up {
		return nil, errors.New("no way")
	}
	c, other := net.Pipe()
	_ = other.Close()
	return link.NewConn(c, "test"), nil
}

func newLinks(n int) (*Links, []*switchable) {
	l := &Links{}
	var all []*switchable
	for range n {
		s := &switchable{}
		all = append(all, s)
		l.links = append(l.links, one{string(rune('a' + len(all) - 1)), s})
	}
	return l, all
}

func dial(t *testing.T, l link.Dialer) error {
	t.Helper()
	c, err := l.Dial(t.Context(), "")
	if err == nil {
		_ = c.Close()
	}
	return err
}

// closing is a link that keeps something.
type closing struct {
	switchable
	err    error
	closed int
}

func (c *closing) Close() error {
	c.closed++
	return c.err
}

func TestClose(t *testing.T) {
	a, b := &closing{err: errors.New("stuck")}, &closing{}
	l := &Links{links: []one{{"a", a}, {"b", &switchable{}}, {"c", b}}}
	if err := l.Close(); !errors.Is(err, a.err) || a.closed != 1 || b.closed != 1 {
		t.Errorf("closed %d and %d times, error %v", a.closed, b.closed, err)
	}
}

func TestFallback(t *testing.T) {
	l, all := newLinks(3)
	all[1].up = true
	err := dial(t, l)
	var transient net.Error
	if err == nil || !errors.As(err, &transient) || !strings.Contains(err.Error(), "no way") || l.Dialled() != "a" {
		t.Errorf("the first link: %v", err)
	}
	if err := dial(t, l); err != nil || l.Dialled() != "b" {
		t.Fatalf("the second link: %v; dialled %q", err, l.Dialled())
	}
	// A connection that never served is no success.
	if err := dial(t, l); err == nil {
		t.Fatal("the third link works")
	}
	_ = dial(t, l) // the first
	if err := dial(t, l); err != nil {
		t.Fatal("the second link:", err)
	}
	// One that did is what is tried first from then on.
	for range 3 {
		l.Proven()
		if err := dial(t, l); err != nil {
			t.Fatal("the second link:", err)
		}
	}
	if all[0].dials != 2 || all[2].dials != 1 {
		t.Errorf("dialled %d and %d times", all[0].dials, all[2].dials)
	}
	// Until the server does not take the device that way any more.
	l.Proven()
	l.Disproven()
	if err := dial(t, l); err == nil || all[2].dials != 2 {
		t.Errorf("the third link was dialled %d times: %v", all[2].dials, err)
	}
}

func TestBetter(t *testing.T) {
	l, all := newLinks(3)
	if l.Better() != nil {
		t.Error("something is better than the first link")
	}
	all[2].up = true
	for dial(t, l) != nil {
	}
	l.Proven()
	if err := dial(t, l.Better()); err == nil {
		t.Error("a better link works")
	}
	all[1].up = true
	better := l.Better()
	if err := dial(t, better); err != nil {
		t.Fatal(err)
	}
	before := all[1].dials
	l.Prefer(better)
	if err := dial(t, l); err != nil || all[1].dials != before+1 {
		t.Errorf("the better link is not used: %v", err)
	}
}

func TestOnlyLink(t *testing.T) {
	l, all := newLinks(1)
	var transient net.Error
	for i := range 3 {
		if err := dial(t, l); err == nil || errors.As(err, &transient) || all[0].dials != i+1 {
			t.Errorf("attempt %d: %v", all[0].dials, err)
		}
	}
}

func parse(t *testing.T, text string) *config.Configuration {
	t.Helper()
	c, err := config.Parse([]byte("apiVersion: "+config.APIVersion+"\nkind: "+config.Kind+"\n"+text), "arhat.yaml")
	if err == nil {
		err = c.Finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBrokerConfig(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := parse(t, "server: mqtt+wss://broker/path\nmqtt: {username: u, passwordFile: "+password+", clientID: c, keepalive: 7, cleanSession: false, maxPayload: 1Ki}")
	got, err := brokerConfig(&c.MQTT, c.Addresses()[0], &clientTLS{caFile: c.MQTT.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	if got.TLS == nil {
		t.Error("no TLS")
	}
	got.TLS = nil
	want := mqtt.BrokerConfig{
		Server: "broker:443", Transport: mqtt.TransportWebSocket, Path: "/path", Username: "u", Password: "secret", ClientID: "c",
		PersistentSession: true, KeepAlive: 7 * time.Second, MaxPayload: 1024,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	c = parse(t, "server: mqtt://broker\nmqtt: {username: u, passwordFile: /does/not/exist}")
	if _, err := brokerConfig(&c.MQTT, c.Addresses()[0], &clientTLS{caFile: c.MQTT.CAFile}); err == nil || !strings.Contains(err.Error(), "the password for the MQTT broker") {
		t.Errorf("a file that is not there: %v", err)
	}
	c = parse(t, "server: mqtts://broker\nmqtt: {caFile: "+password+"}")
	if _, err := brokerConfig(&c.MQTT, c.Addresses()[0], &clientTLS{caFile: c.MQTT.CAFile}); err == nil || !strings.Contains(err.Error(), "holds no PEM certificate") {
		t.Errorf("a file without CAs: %v", err)
	}
}

// The agent may come over several transports.
func TestBrokerKeepAlive(t *testing.T) {
	const servers = "server: mqtt://broker\nlinks: [mqtt+wss://broker]\n"
	for name, tt := range map[string]struct {
		text string
		want []time.Duration
	}{
		"default": {servers, []time.Duration{300 * time.Second, 45 * time.Second}},
		"set":     {servers + "mqtt: {keepalive: 300}", []time.Duration{300 * time.Second, 300 * time.Second}},
		"never":   {servers + "mqtt: {keepalive: 0}", []time.Duration{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse(t, tt.text)
			for i, a := range c.Addresses() {
				got, err := brokerConfig(&c.MQTT, a, &clientTLS{})
				if err != nil || got.KeepAlive != tt.want[i] || got.MaxPayload != 0 {
					t.Errorf("of %s the keepalive is %s and the limit %d, error %v", a, got.KeepAlive, got.MaxPayload, err)
				}
			}
		})
	}
}

func TestDialers(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	_ = closed.Close()
	for _, server := range []string{address, "wss://" + address, "mqtt://" + address} {
		l := New(parse(t, "server: "+server), identity.Device{Namespace: "edge", Name: "device-1"})
		if l.String() != server {
			t.Errorf("%s is shown as %s", server, l)
		}
		if err := dial(t, l); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: %v", server, err)
		}
	}
}

// A link for when others fail is looked at before they do.
func TestCheck(t *testing.T) {
	const config = "server: a:1\nlinks: ['wss://b', 'mqtts://c']\n"
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"nothing is named": {text: ""},
		"files that are not there": {text: "websocket: {caFile: /does/not/exist}\nmqtt: {username: u, passwordFile: /nor/this}",
			want: []string{"by wss://b:443: the CAs to trust: open /does/not/exist", "by mqtts://c:8883: the password for the MQTT broker: open /nor/this"}},
	} {
		err := Check(parse(t, config+test.text))
		if len(test.want) == 0 && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
}

package gateway

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link"
)

// always is a Directory with one device.
type always struct{ ed *v1alpha1.EdgeDevice }

func (a always) Get(string, string) (*v1alpha1.EdgeDevice, error) { return a.ed, nil }
func (a always) Stored(context.Context, string, string) (*v1alpha1.EdgeDevice, error) {
	return a.ed, nil
}
func (a always) SetCertificate(context.Context, Device, v1alpha1.CertificateStatus, time.Time) error {
	return nil
}

// wire is the network below a session: what the test reads from it and writes to it is traffic.
type wire struct{ net.Conn }

func (wire) Read(p []byte) (int, error)  { return len(p), nil }
func (wire) Write(p []byte) (int, error) { return len(p), nil }

// checked is a session and what the pinger does to it.
type checked struct {
	*session
	sent int
}

func newChecked(t *testing.T, method string) *checked {
	t.Helper()
	ed := &v1alpha1.EdgeDevice{Status: v1alpha1.EdgeDeviceStatus{Certificate: &v1alpha1.CertificateStatus{PublicKeySHA256: "key"}}}
	g := &Gateway{config: Config{Devices: always{ed}, PingTimeout: 10 * time.Second}, pinger: newPinger()}
	g.registry.init()
	c := &checked{session: &session{
		gateway: g, keyHash: "key", welcome: digest(g.welcomeFor(ed, method)), done: make(chan struct{}),
	}}
	conn := &deviceConn{Conn: link.NewConn(wire{}, method)}
	conn.isIn.Store(true)
	c.conn.Store(conn)
	c.out.send = func(m *edgeapi.ServerMessage) error {
		c.sent++
		return nil
	}
	c.out.spawn = func(f func()) { f() }
	c.out.opened = true
	c.certificate(time.Now(), time.Now().Add(24*365*time.Hour))
	return c
}

// run lets time pass as the pinger would, and returns whether the session is still there.
func (c *checked) run(for_ time.Duration, traffic func()) bool {
	end := time.Now().Add(for_)
	next := time.Now()
	for time.Now().Before(end) {
		if traffic != nil {
			traffic()
		}
		if !time.Now().Before(next) {
			c.outUnlocked(func() { next = c.check(time.Now(), 40*time.Second) })
		}
		select {
		case <-c.done:
			return false
		default:
		}
		time.Sleep(time.Second)
	}
	return true
}

// outUnlocked runs what the outbox spawned after f, as another goroutine would.
func (c *checked) outUnlocked(f func()) {
	var later []func()
	c.out.spawn = func(g func()) { later = append(later, g) }
	f()
	for _, g := range later {
		g()
	}
}

func TestHeartbeat(t *testing.T) {
	read := func(c *checked) func() { return func() { _, _ = c.conn.Load().Read(make([]byte, 1)) } }
	write := func(c *checked) func() { return func() { _, _ = c.conn.Load().Write(make([]byte, 1)) } }
	both := func(c *checked) func() { return func() { read(c)(); write(c)() } }
	for name, c := range map[string]struct {
		traffic func(*checked) func()
		for_    time.Duration
		alive   bool
		pings   int
	}{
		"silent":                                  {nil, 15 * time.Second, false, 1},
		"silent, while the network takes bytes":   {write, 50 * time.Second, true, 1},
		"silent for too long even so":             {write, 70 * time.Second, false, 1},
		"busy: pinged for the usage only":         {both, 1000 * time.Second, true, 7},
		"talks and is not talked to: pinged, too": {read, 400 * time.Second, true, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newChecked(t, link.MethodGRPC)
				var traffic func()
				if c.traffic != nil {
					traffic = c.traffic(s)
				}
				if alive := s.run(c.for_, traffic); alive != c.alive {
					t.Errorf("alive %v, expected %v: %v", alive, c.alive, s.reason)
				}
				if !c.alive && !strings.Contains(s.reason.Error(), "did not answer a ping") {
					t.Errorf("ended: %v", s.reason)
				}
				if s.sent < c.pings || s.sent > c.pings+3 && c.pings < 3 {
					t.Errorf("%d pings, expected about %d", s.sent, c.pings)
				}
			})
		})
	}
}

// A ping behind much else on a slow link has time while the other end acknowledges what is before it.
func TestSlowLink(t *testing.T) {
	for name, layers := range map[string]func(net.Conn) net.Conn{
		"tcp":   func(c net.Conn) net.Conn { return &peeked{Conn: c} },
		"https": func(c net.Conn) net.Conn { return tls.Server(&peeked{Conn: c}, &tls.Config{}) },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := link.ListenTCP(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			device, err := link.TCP{}.Dial(t.Context(), l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			// The kernel has just heard of the other end, whatever the time is below.
			synctest.Test(t, func(t *testing.T) {
				s := newChecked(t, link.MethodGRPC)
				s.conn.Load().Conn = link.NewConn(layers(device.Conn), link.MethodGRPC)
				if !s.run(50*time.Second, nil) {
					t.Errorf("ended while the device acknowledges what is sent: %v", s.reason)
				}
				if s.run(20*time.Second, nil) {
					t.Error("a device that answers nothing is kept for ever")
				}
			})
		})
	}
}

// A device that was asked for a stream and is not heard of is probed soon, even if its heartbeats are rare.
func TestSilentWhenAsked(t *testing.T) {
	for name, heard := range map[string]bool{"silent": false, "heard of": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newChecked(t, link.MethodMQTT)
				g := s.gateway
				g.config.MaxStreams = 1
				g.pending.init()
				var dead atomic.Bool
				var pings atomic.Int32
				s.out.spawn = g.work.Go
				s.out.send = func(m *edgeapi.ServerMessage) error {
					if ping := m.GetPing(); ping != nil {
						pings.Add(1)
					}
					if !dead.Load() {
						time.Sleep(time.Millisecond)
						_, _ = s.conn.Load().Read(make([]byte, 1))
					}
					return nil
				}
				go g.pinger.run(t.Context())
				g.pinger.add(s.session, 30*time.Minute)
				time.Sleep(time.Minute)
				before := pings.Load()
				dead.Store(!heard)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				_, err := s.OpenStream(ctx, &edgeapi.OpenStream{})
				if over := s.isOver(); err == nil || over == heard {
					t.Errorf("the session is over: %t; opening the stream: %v", over, err)
				}
				if sent := pings.Load() - before; (sent == 0) != heard {
					t.Errorf("%d pings", sent)
				}
			})
		})
	}
}

// The round trip is that of a ping. What is asked afterwards does not make a late answer quick.
func TestRoundTrip(t *testing.T) {
	c := newChecked(t, link.MethodGRPC)
	start := time.Now()
	pong := func(at time.Duration) { c.pong(&edgeapi.Pong{Id: c.pings.id}, start.Add(at)) }
	c.pings.ping(start)
	pong(3 * time.Second)
	c.pings.ping(start)
	c.pings.await(start.Add(7 * time.Second)) // asked to be parked, while something else was heard of it
	pong(8 * time.Second)
	if got := time.Duration(c.roundTrip.Load()); got != 3*time.Second {
		t.Errorf("after a late answer the round trip is %s", got)
	}
	c.pings.ping(start)
	pong(4 * time.Second)
	if got := time.Duration(c.roundTrip.Load()); got != 4*time.Second {
		t.Errorf("the next one is %s", got)
	}
}

// Pings are due at the ends of steps, and not before their time.
func TestPingStep(t *testing.T) {
	p := newPinger()
	for _, after := range []time.Duration{0, 1, pingStep - 1, pingStep, pingStep + 1, time.Hour + 1} {
		at := p.start.Add(after)
		step := p.step(at)
		if late := step.Sub(at); late < 0 || late >= pingStep || step.Sub(p.start)%pingStep != 0 {
			t.Errorf("what is due after %s is done after %s", after, step.Sub(p.start))
		}
	}
}

// A certificate is asked to be renewed in its last sixth, now and then, and ends the link with it.
func TestCertificateOfLiveLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newChecked(t, link.MethodGRPC)
		s.certificate(time.Now(), time.Now().Add(60*time.Hour))
		step := func(d time.Duration) {
			time.Sleep(d)
			s.outUnlocked(func() { s.checkCertificate(time.Now()) })
		}
		step(49 * time.Hour)
		if s.sent != 0 {
			t.Error("reminded too early")
		}
		step(2 * time.Hour)
		step(time.Hour)
		if s.sent != 1 {
			t.Errorf("reminded %d times", s.sent)
		}
		step(6 * time.Hour)
		if s.sent != 2 {
			t.Errorf("reminded %d times", s.sent)
		}
		step(3 * time.Hour)
		select {
		case <-s.done:
		default:
			t.Error("the link outlived its certificate")
		}
	})
}

// TestFirstPings: few devices are pinged soon after they connect, many not all at the moment at which they do.
func TestFirstPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const devices = 3000
		p, begin := newPinger(), time.Now()
		var latest time.Duration
		for i := range devices {
			s := &session{done: make(chan struct{})}
			p.add(s, time.Minute)
			first := s.pings.next.Sub(begin)
			if within := max(firstPing, time.Duration(i)*firstPingEach); first < 0 || first > within {
				t.Fatalf("device %d is pinged after %s", i, first)
			}
			latest = max(latest, first)
		}
		if latest < devices*firstPingEach/2 || latest > maxFirstPing {
			t.Errorf("the last ping comes after %s", latest)
		}
	})
}

// A broker tells of losses only of devices that have come over it, whatever the method of the EdgeDevice.
func TestHeartbeatInterval(t *testing.T) {
	g := &Gateway{}
	ownWill := &v1alpha1.MQTTConfig{ConnectPacket: v1alpha1.MQTTConnectPacket{Will: &v1alpha1.MQTTWill{Topic: "t"}}}
	for name, tt := range map[string]struct {
		connectivity v1alpha1.Connectivity
		link         string
		want         time.Duration
	}{
		"grpc":                               {v1alpha1.Connectivity{Method: v1alpha1.ConnectivityGRPC}, link.MethodGRPC, 40 * time.Second},
		"mqtt":                               {v1alpha1.Connectivity{Method: v1alpha1.ConnectivityMQTT}, link.MethodMQTT, 30 * time.Minute},
		"mqtt with a config":                 {v1alpha1.Connectivity{Method: v1alpha1.ConnectivityMQTT, MQTTConfig: &v1alpha1.MQTTConfig{}}, link.MethodMQTT, 30 * time.Minute},
		"mqtt with a will of the user's own": {v1alpha1.Connectivity{Method: v1alpha1.ConnectivityMQTT, MQTTConfig: ownWill}, link.MethodMQTT, 40 * time.Second},
		"mqtt, but comes over TCP":           {v1alpha1.Connectivity{Method: v1alpha1.ConnectivityMQTT}, link.MethodGRPC, 40 * time.Second},
		"mqtt, but comes over a WebSocket":   {v1alpha1.Connectivity{Method: v1alpha1.ConnectivityMQTT}, link.MethodWebSocket, 40 * time.Second},
		"set":                                {v1alpha1.Connectivity{HeartbeatInterval: &metav1.Duration{Duration: time.Minute}}, link.MethodMQTT, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			w := g.welcomeFor(&v1alpha1.EdgeDevice{Spec: v1alpha1.EdgeDeviceSpec{Connectivity: tt.connectivity}}, tt.link)
			if got := time.Duration(w.HeartbeatIntervalMs) * time.Millisecond; got != tt.want {
				t.Errorf("the interval is %s, expected %s", got, tt.want)
			}
		})
	}
}

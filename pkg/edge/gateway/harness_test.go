package gateway_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/stream"
)

// deadline of everything that a test waits for. No test waits that long unless it fails.
const deadline = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// directory is a Directory in memory.
type directory struct {
	mu      sync.Mutex
	devices map[string]*v1alpha1.EdgeDevice
	cached  map[string]*v1alpha1.EdgeDevice // where it lags behind, nil for what is not there
	fail    error                           // instead of setting a certificate
	losses  int                             // of answers, after it was set
}

func (d *directory) Get(namespace, name string) (*v1alpha1.EdgeDevice, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ed, lags := d.cached[namespace+"/"+name]
	if !lags {
		ed = d.devices[namespace+"/"+name]
	}
	if ed != nil {
		return ed.DeepCopy(), nil
	}
	return nil, notFound(name)
}

// Stored does not lag behind.
func (d *directory) Stored(_ context.Context, namespace, name string) (*v1alpha1.EdgeDevice, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ed := d.devices[namespace+"/"+name]; ed != nil {
		return ed.DeepCopy(), nil
	}
	return nil, notFound(name)
}

func notFound(name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: v1alpha1.GroupName, Resource: "edgedevices"}, name)
}

func (d *directory) SetCertificate(_ context.Context, device gateway.Device, c v1alpha1.CertificateStatus, token time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	ed := d.devices[device.String()]
	if ed == nil {
		return notFound(device.Name)
	}
	certified, err := gateway.Certified(ed, device, c, token)
	if err != nil {
		return err
	}
	ed = ed.DeepCopy()
	ed.Status.Certificate = certified
	d.devices[device.String()] = ed
	if d.losses > 0 {
		d.losses--
		return errors.New("timed out")
	}
	return nil
}

// put adds an EdgeDevice with a UID.
func (d *directory) put(name, uid string, change ...func(*v1alpha1.EdgeDevice)) gateway.Device {
	ed := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: name, UID: types.UID(uid)}}
	for _, f := range change {
		f(ed)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.devices["edge/"+name] = ed
	return gateway.Device{Namespace: "edge", Name: name, UID: ed.UID}
}

func (d *directory) change(name string, f func(*v1alpha1.EdgeDevice)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ed := d.devices["edge/"+name].DeepCopy()
	f(ed)
	d.devices["edge/"+name] = ed
}

// lag leaves the cache behind.
func (d *directory) lag(name string, cached *v1alpha1.EdgeDevice) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cached == nil {
		d.cached = map[string]*v1alpha1.EdgeDevice{}
	}
	d.cached["edge/"+name] = cached
}

func (d *directory) remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.devices, "edge/"+name)
}

// record is what a handler was told.
type record struct {
	what   string // started, message, ended
	s      gateway.Session
	msg    *edgeapi.DeviceMessage
	reason error
}

// recorder is a Handler that keeps what it is told.
type recorder struct {
	records chan record
	block   func(gateway.Device) // called for each message
}

func (r *recorder) SessionStarted(s gateway.Session) { r.records <- record{what: "started", s: s} }

func (r *recorder) DeviceMessage(s gateway.Session, msg *edgeapi.DeviceMessage) {
	if r.block != nil {
		r.block(s.Device())
	}
	r.records <- record{what: "message", s: s, msg: msg}
}

func (r *recorder) SessionEnded(s gateway.Session, reason error) {
	r.records <- record{what: "ended", s: s, reason: reason}
}

func (r *recorder) next(t testing.TB, what string) record {
	t.Helper()
	select {
	case got := <-r.records:
		if got.what != what {
			t.Fatalf("the handler was told %q (%v), expected %q", got.what, got.reason, what)
		}
		return got
	case <-time.After(deadline):
		t.Fatalf("the handler was not told %q", what)
		return record{}
	}
}

// world is a running gateway with its surroundings.
type world struct {
	*gateway.Gateway
	config    gateway.Config
	address   string
	directory *directory
	handler   *recorder
	logger    *klog.Logger // what start uses, if set
	stop      func()
}

func newWorld(t testing.TB, change ...func(*gateway.Config)) *world {
	t.Helper()
	w := &world{
		directory: &directory{devices: map[string]*v1alpha1.EdgeDevice{}},
		handler:   &recorder{records: make(chan record, 4096)},
	}
	w.config = gateway.Config{
		Authority: gateway.NewTestAuthority(t), Devices: w.directory, Handler: w.handler, Replica: "replica-1",
		CacheLag: 200 * time.Millisecond,
	}
	for _, f := range change {
		f(&w.config)
	}
	w.start(t)
	return w
}

// start runs the gateway, again if it was stopped.
func (w *world) start(t testing.TB) {
	t.Helper()
	address := w.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	ctx, cancel := context.WithCancel(t.Context())
	if w.logger != nil {
		ctx = klog.NewContext(ctx, *w.logger)
	}
	l, err := link.ListenTCP(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	config := w.config
	config.Listener = l
	if w.Gateway, err = gateway.New(config); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	g := w.Gateway
	go func() { done <- g.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(deadline):
			t.Error("the gateway did not stop")
		}
	})
	t.Cleanup(func() { w.stop() })
}

// enrol gives a new state directory the identity of a device.
func (w *world) enrol(t testing.TB, device gateway.Device) string {
	t.Helper()
	dir := t.TempDir()
	w.enrolIn(t, device, dir)
	return dir
}

func (w *world) enrolIn(t testing.TB, device gateway.Device, dir string) {
	t.Helper()
	token, _, err := w.IssueToken(t.Context(), device, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := joinAndLeave(t.Context(), uplink.JoinOptions{Server: w.address, Token: token, StateDir: dir}); err != nil {
		t.Fatal(err)
	}
}

// joinAndLeave enrols a device that then connects anew.
func joinAndLeave(ctx context.Context, o uplink.JoinOptions) error {
	joined, err := uplink.Join(ctx, o)
	joined.Close()
	return err
}

// device is a running uplink.
type device struct {
	*uplink.Client
	stop         func()
	connected    chan connected
	messages     chan *edgeapi.ServerMessage
	disconnected chan error
	serve        func(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream)
	slow         chan struct{} // Message waits for it
	hello        []byte        // the status in Hello
}

type connected struct {
	ctx     context.Context
	welcome *edgeapi.Welcome
	send    uplink.Sender
}

func (d *device) Hello(context.Context) *edgeapi.Hello {
	return &edgeapi.Hello{AgentVersion: "test", NodeStatus: &edgeapi.NodeStatus{Status: d.hello}}
}

func (d *device) Connected(ctx context.Context, w *edgeapi.Welcome, send uplink.Sender) {
	d.connected <- connected{ctx, w, send}
}

func (d *device) Message(msg *edgeapi.ServerMessage) {
	if d.slow != nil {
		<-d.slow
	}
	d.messages <- msg
}

func (d *device) Disconnected(err error) { d.disconnected <- err }

func (d *device) Stream(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream) {
	d.serve(ctx, req, s)
}

func (d *device) Usage() (cpu, memory uint64) { return 5e8, 64 << 20 }

func (w *world) run(t testing.TB, dir string, change ...func(*device, *uplink.Config)) *device {
	t.Helper()
	d := &device{
		connected: make(chan connected, 64), messages: make(chan *edgeapi.ServerMessage, 4096), disconnected: make(chan error, 64),
		serve: func(context.Context, *edgeapi.OpenStream, *stream.Stream) {},
	}
	config := uplink.Config{Server: w.address, StateDir: dir, Handler: d}
	for _, f := range change {
		f(d, &config)
	}
	var err error
	if d.Client, err = uplink.New(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("uplink.Run: %v", err)
			}
		case <-time.After(deadline):
			t.Error("the uplink did not stop")
		}
	})
	t.Cleanup(d.stop)
	return d
}

func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(deadline):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}

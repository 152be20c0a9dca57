package agent

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/test/framework/eventually"
)

const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is a gateway and what the controllers would know.
type cloud struct {
	t       *testing.T
	gateway *gateway.Gateway
	address string
	device  *v1alpha1.EdgeDevice

	mu       sync.Mutex
	session  gateway.Session
	statuses map[string]*v1.PodStatus
	removed  map[string]bool
	events   []*edgeapi.Event
	nodes    []*v1.NodeStatus
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	authority, err := gateway.LoadOrCreateAuthority(t.Context(), fake.NewClientset(), "aranya-system",
		func(context.Context) ([]types.NamespacedName, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	listener, err := link.ListenTCP(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{
		t: t, address: listener.Addr().String(),
		statuses: map[string]*v1.PodStatus{}, removed: map[string]bool{},
		device: &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "device-1", UID: "device-uid"}},
	}
	c.gateway, err = gateway.New(gateway.Config{Listener: listener, Authority: authority, Devices: c, Handler: c, Replica: "replica-1"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.gateway.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("statuses: %v\nevents: %v", c.statuses, c.events)
		}
	})
	return c
}

// Get implements gateway.Directory.
func (c *cloud) Get(namespace, name string) (*v1alpha1.EdgeDevice, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if namespace != c.device.Namespace || name != c.device.Name {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "edgedevices"}, name)
	}
	return c.device.DeepCopy(), nil
}

// Stored implements gateway.Directory.
func (c *cloud) Stored(_ context.Context, namespace, name string) (*v1alpha1.EdgeDevice, error) {
	return c.Get(namespace, name)
}

// SetCertificate implements gateway.Directory.
func (c *cloud) SetCertificate(_ context.Context, device gateway.Device, certificate v1alpha1.CertificateStatus, token time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	certified, err := gateway.Certified(c.device, device, certificate, token)
	if err != nil {
		return err
	}
	c.device.Status.Certificate = certified
	return nil
}

// SessionStarted implements gateway.Handler.
func (c *cloud) SessionStarted(s gateway.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
}

// SessionEnded implements gateway.Handler.
func (c *cloud) SessionEnded(gateway.Session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
}

// DeviceMessage implements gateway.Handler.
func (c *cloud) DeviceMessage(_ gateway.Session, message *edgeapi.DeviceMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m := message.GetMessage().(type) {
	case *edgeapi.DeviceMessage_PodStatus:
		status := &v1.PodStatus{}
		if err := status.Unmarshal(m.PodStatus.Status); err != nil {
			c.t.Error(err)
		}
		c.statuses[m.PodStatus.Uid] = status
	case *edgeapi.DeviceMessage_PodRemoved:
		c.removed[m.PodRemoved.Uid] = true
	case *edgeapi.DeviceMessage_Event:
		c.events = append(c.events, m.Event)
	case *edgeapi.DeviceMessage_NodeStatus:
		c.nodes = append(c.nodes, decodeNode(c.t, m.NodeStatus))
	}
}

func decodeNode(t *testing.T, s *edgeapi.NodeStatus) *v1.NodeStatus {
	status := &v1.NodeStatus{}
	if err := status.Unmarshal(s.GetStatus()); err != nil {
		t.Error(err)
	}
	return status
}

func (c *cloud) connected() gateway.Session {
	c.t.Helper()
	var s gateway.Session
	c.eventually("the device is connected", func() bool {
		s = c.session
		return s != nil
	})
	return s
}

// eventually polls with the lock held.
func (c *cloud) eventually(what string, check func() bool) {
	c.t.Helper()
	eventually.Holds(c.t, what, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return check()
	})
}

// container is the only container of a pod, as the device last told of it. Devices tell at any time:
// what is read outside of eventually needs the lock too.
func (c *cloud) container(uid string) v1.ContainerStatus {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	status := c.statuses[uid]
	if status == nil || len(status.ContainerStatuses) != 1 {
		c.t.Fatalf("the pod %s has the status %v", uid, status)
	}
	return status.ContainerStatuses[0]
}

func (c *cloud) send(s gateway.Session, message *edgeapi.ServerMessage) {
	c.t.Helper()
	if err := s.Send(message); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cloud) run(s gateway.Session, pod *v1.Pod) {
	c.t.Helper()
	data, err := pod.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(s, &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_RunPod{RunPod: &edgeapi.RunPod{Uid: string(pod.UID), Pod: data, Digest: "1"}}})
}

// device is an agent with its directories.
type device struct {
	t      *testing.T
	config *config.Configuration
	cancel context.CancelFunc
	done   chan error
}

func newDevice(t *testing.T, c *cloud) *device {
	t.Helper()
	token, _, err := c.gateway.IssueToken(t.Context(), gateway.Device{Namespace: "edge", Name: "device-1", UID: "device-uid"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, config: config.New()}
	d.config.Server, d.config.Runtime = c.address, config.RuntimeProcess
	d.config.StateDir, d.config.LogDir = filepath.Join(t.TempDir(), "state"), t.TempDir()
	d.config.EvictionHard = map[string]string{} // this machine's disk may be as full as it likes
	if err := d.config.Finish(); err != nil {
		t.Fatal(err)
	}
	joined, err := uplink.Join(t.Context(), uplink.JoinOptions{Server: c.address, Token: token, StateDir: d.config.StateDir})
	if err != nil {
		t.Fatal(err)
	}
	joined.Close()
	d.start()
	t.Cleanup(d.stop)
	return d
}

func (d *device) start() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := New(ctx, d.config, Seams{})
	if err != nil {
		d.t.Fatal(err)
	}
	d.cancel, d.done = cancel, make(chan error, 1)
	go func() { d.done <- a.Run(ctx) }()
}

func (d *device) stop() {
	d.cancel()
	select {
	case err := <-d.done:
		if err != nil {
			d.t.Error(err)
		}
	case <-time.After(patience):
		d.t.Error("the agent does not stop")
	}
	d.done <- nil
}

func hostPod(name, script string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid")},
		Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](5), RestartPolicy: v1.RestartPolicyAlways,
			Containers: []v1.Container{{Name: "main", Image: "host", Command: []string{"/bin/sh", "-c", script}}},
		},
	}
}

func running(s *v1.PodStatus) bool {
	return s != nil && s.Phase == v1.PodRunning && len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].State.Running != nil
}

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/node"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
	"arhat.dev/aranya/pkg/edge/agent/uplink"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/streaming"
)

const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is a gateway and what the controllers would know.
type cloud struct {
	t       *testing.T
	gateway *gateway.Gateway
	address string
	device  *v1alpha1.EdgeDevice
	tokens  map[string]gateway.TokenRecord

	mu       sync.Mutex
	session  gateway.Session
	statuses map[string]*v1.PodStatus
	removed  map[string]bool
	events   []*edgeapi.Event
	nodes    []*v1.NodeStatus
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	authority, err := gateway.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	listener, err := link.ListenTCP(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{
		t: t, address: listener.Addr().String(), tokens: map[string]gateway.TokenRecord{},
		statuses: map[string]*v1.PodStatus{}, removed: map[string]bool{},
		device: &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "device-1", UID: "device-uid"}},
	}
	c.gateway, err = gateway.New(gateway.Config{Listener: listener, Authority: authority, Tokens: tokens{c}, Devices: c, Handler: c, Replica: "replica-1"})
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

// SetCertificate implements gateway.Directory.
func (c *cloud) SetCertificate(_ context.Context, _ gateway.Device, certificate v1alpha1.CertificateStatus, _ bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.device.Status.Certificate = &certificate
	return nil
}

// Create, with the three methods below, implements gateway.TokenStore.
func (c *cloud) Create(_ context.Context, r gateway.TokenRecord) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[r.Hash] = r
	return nil
}

func (c *cloud) TokenRecord(hash string) (gateway.TokenRecord, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.tokens[hash]
	return r, ok
}

// tokens adapts the names of gateway.TokenStore, one of which gateway.Directory has too.
type tokens struct{ *cloud }

func (s tokens) Get(_ context.Context, hash string) (*gateway.TokenRecord, error) {
	if r, ok := s.TokenRecord(hash); ok {
		return &r, nil
	}
	return nil, gateway.ErrTokenUnknown
}

func (s tokens) Consume(_ context.Context, r *gateway.TokenRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.cloud.tokens[r.Hash]; !ok {
		return gateway.ErrTokenUnknown
	}
	delete(s.cloud.tokens, r.Hash)
	return nil
}

func (s tokens) Restore(ctx context.Context, r *gateway.TokenRecord) error { return s.Create(ctx, *r) }

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
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		ok := check()
		c.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.t.Fatalf("not within %s: %s\nstatuses: %v\nevents: %v", patience, what, c.statuses, c.events)
		}
	}
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
	if err := d.config.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := uplink.Join(t.Context(), uplink.JoinOptions{Server: c.address, Token: token, StateDir: d.config.StateDir}); err != nil {
		t.Fatal(err)
	}
	d.start()
	t.Cleanup(d.stop)
	return d
}

func (d *device) start() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := New(ctx, d.config)
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

func TestAgent(t *testing.T) {
	c := newCloud(t)
	d := newDevice(t, c)
	s := c.connected()

	status := decodeNode(t, s.Hello().NodeStatus)
	if got := status.NodeInfo; got.KubeletVersion == "" || !strings.HasPrefix(got.KubeletVersion, node.KubernetesVersion) || !strings.HasPrefix(got.ContainerRuntimeVersion, "process://") {
		t.Errorf("Hello says %v", got)
	}
	c.eventually("the node has the capacity for pods from Welcome", func() bool {
		return len(c.nodes) > 0 && c.nodes[len(c.nodes)-1].Capacity.Pods().Value() == 110
	})

	c.send(s, &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DesiredPods{DesiredPods: &edgeapi.DesiredPods{}}})
	c.run(s, hostPod("web", "echo hello from $0; trap 'exit 0' TERM; while :; do sleep 0.05; done"))
	c.eventually("the pod runs", func() bool { return running(c.statuses["web-uid"]) })

	t.Run("streams", func(t *testing.T) { testStreams(t, s) })

	t.Run("policy", func(t *testing.T) {
		pod := hostPod("privileged", "true")
		pod.Spec.Containers[0].SecurityContext = &v1.SecurityContext{Privileged: ptr.To(true)}
		c.run(s, pod)
		c.eventually("the pod is refused", func() bool {
			got := c.statuses["privileged-uid"]
			return got != nil && got.Phase == v1.PodFailed && got.Reason == "ForbiddenByDevice" && strings.Contains(got.Message, "policy.privilegedPods")
		})
	})

	t.Run("image", func(t *testing.T) {
		pod := hostPod("nginx", "true")
		pod.Spec.Containers[0].Image = "nginx:1"
		c.run(s, pod)
		c.eventually("the image is refused in the pod's status", func() bool {
			got := c.statuses["nginx-uid"]
			return got != nil && len(got.ContainerStatuses) == 1 && got.ContainerStatuses[0].State.Waiting != nil &&
				strings.Contains(got.ContainerStatuses[0].State.Waiting.Message, "no container runtime")
		})
	})

	t.Run("restart", func(t *testing.T) {
		before := c.statuses["web-uid"].ContainerStatuses[0]
		pid := mainPID(t, d.config.StateDir)
		d.stop()
		c.eventually("the session ends", func() bool { return c.session == nil })
		c.mu.Lock()
		clear(c.statuses)
		c.mu.Unlock()
		d.start()
		s = c.connected()
		digests := map[string]string{}
		for _, digest := range s.Hello().Pods {
			digests[digest.Uid] = digest.Digest
		}
		if digests["web-uid"] != "1" {
			t.Errorf("Hello has the digests %v", digests)
		}
		c.eventually("the status is sent again", func() bool { return running(c.statuses["web-uid"]) })
		after := c.statuses["web-uid"].ContainerStatuses[0]
		if before.ContainerID != after.ContainerID || before.RestartCount != after.RestartCount || !before.State.Running.StartedAt.Equal(&after.State.Running.StartedAt) {
			t.Errorf("the container was\n%v, is\n%v", before, after)
		}
		if got := mainPID(t, d.config.StateDir); got != pid {
			t.Errorf("the process was %d, is %d", pid, got)
		}
	})

	t.Run("delete", func(t *testing.T) {
		for _, uid := range []string{"web-uid", "privileged-uid", "nginx-uid", "never-heard-of"} {
			c.send(s, &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DeletePod{DeletePod: &edgeapi.DeletePod{Uid: uid, GracePeriodSeconds: 5}}})
			c.eventually(uid+" is removed", func() bool { return c.removed[uid] })
		}
		for _, dir := range []string{filepath.Join(d.config.StateDir, dirProcess, "containers"), filepath.Join(d.config.StateDir, dirProcess, "sandboxes"), d.config.LogDir} {
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("%s still has %v, %v", dir, entries, err)
			}
		}
	})
}

// mainPID reads the process of the only container from the runtime's records.
func mainPID(t *testing.T, stateDir string) int {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(stateDir, dirProcess, "containers", "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("the containers are %v, %v", dirs, err)
	}
	started, err := shim.ReadStarted(dirs[0])
	if err != nil || !started.Alive() {
		t.Fatalf("the container's process is %v, %v", started, err)
	}
	return started.PID
}

func runExec(t *testing.T, s gateway.Session, container *edgeapi.ContainerRef, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command, err := target.Exec(ctx, s, container, argv, streaming.Options{Stdout: true})
	if err != nil {
		return "", err
	}
	out := &bytes.Buffer{}
	err = command.Run(ctx, streaming.IO{Stdout: out})
	return out.String(), err
}

func testStreams(t *testing.T, s gateway.Session) {
	container := target.Container("web-uid", "main")
	for name, ref := range map[string]*edgeapi.ContainerRef{"host": nil, "container": container} {
		out, err := runExec(t, s, ref, "sh", "-c", "echo one; exit 42")
		var exit utilexec.ExitError
		if out != "one\n" || !errors.As(err, &exit) || exit.ExitStatus() != 42 {
			t.Errorf("exec in the %s gave %q, %v", name, out, err)
		}
	}
	for _, log := range []struct {
		request *edgeapi.Log
		want    string
	}{
		{&edgeapi.Log{Source: &edgeapi.Log_Container{Container: container}, TailLines: -1, LimitBytes: -1}, "hello from"},
		{&edgeapi.Log{Source: &edgeapi.Log_Container{Container: container}, TailLines: -1, LimitBytes: 5}, "hello"},
	} {
		r, err := target.Log(t.Context(), s, log.request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !strings.HasPrefix(string(got), log.want) {
			t.Errorf("the log is %q, %v", got, err)
		}
		_ = r.Close()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			data, _ := io.ReadAll(conn)
			_, _ = fmt.Fprintf(conn, "got %s", data)
			_ = conn.Close()
		}
	}()
	for _, address := range []target.Address{{}, {PodUID: "web-uid"}} {
		conn, err := target.Dialer(s, address)(t.Context(), uint16(listener.Addr().(*net.TCPAddr).Port))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "ping")
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "got ping" {
			t.Errorf("dial of %v gave %q, %v", address, got, err)
		}
		_ = conn.Close()
	}
	if _, err := target.Dialer(s, target.Address{Host: "203.0.113.1"})(t.Context(), 80); !apierrors.IsForbidden(err) {
		t.Errorf("a host on the network gave %v", err)
	}
	summary, err := target.Stats(t.Context(), s, false)
	if err != nil {
		t.Fatal(err)
	}
	checkSummary(t, summary)
}

func checkSummary(t *testing.T, summary *statsapi.Summary) {
	if len(summary.Pods) != 1 || summary.Pods[0].PodRef.Name != "web" || ptr.Deref(summary.Pods[0].Memory.WorkingSetBytes, 0) == 0 {
		t.Errorf("the summary has the pods %v", summary.Pods)
	}
	if ptr.Deref(summary.Node.Memory.WorkingSetBytes, 0) == 0 || ptr.Deref(summary.Node.CPU.UsageCoreNanoSeconds, 0) == 0 || summary.Node.Fs == nil {
		t.Errorf("the summary has the node %v", summary.Node)
	}
}

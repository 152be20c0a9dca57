package pods

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/cgroups"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/cri"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/containerd"
	"arhat.dev/aranya/test/framework/containerd/containerdtest"
)

const (
	testImage = "test.local/box:1"
	// patience bounds what a real runtime may take on a busy machine.
	patience = 60 * time.Second
)

// device is a manager with a real containerd below it.
type device struct {
	t       *testing.T
	server  *containerd.Server
	runtime runtime.Runtime
	dir     string
	manager *Manager
	stop    func()
	sink    *collector
	// clock of the agent; nil for the real one.
	clock clock.WithTicker
	// wrap is what the agent has between itself and the runtime, from the next start on; nil for nothing.
	wrap func(runtime.Runtime) runtime.Runtime
	// allocatable from the next start on.
	allocatable v1.ResourceList
	// cgroupMount from the next start on, if it is not the machine's own.
	cgroupMount string
	// podPIDs from the next start on.
	podPIDs        int64
	allowsHostPath func(string) bool
	// logMaxSize from the next start on; 0 for the default.
	logMaxSize int64
}

// collector keeps what a Sink is told.
type collector struct {
	mu       sync.Mutex
	statuses map[string]*v1.PodStatus
	removed  map[string]bool
	final    map[string][]byte // status with which a pod was last said to be removed
	events   []string
	changed  chan struct{}
	static   *edgeapi.StaticPods
}

func newCollector() *collector {
	return &collector{statuses: map[string]*v1.PodStatus{}, removed: map[string]bool{}, final: map[string][]byte{}, changed: make(chan struct{}, 1)}
}

func (c *collector) notify() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *collector) PodStatus(s *edgeapi.PodStatus) {
	status := &v1.PodStatus{}
	if err := status.Unmarshal(s.Status); err != nil {
		panic(err)
	}
	c.mu.Lock()
	c.statuses[s.Uid] = status
	c.mu.Unlock()
	c.notify()
}

func (c *collector) PodRemoved(r *edgeapi.PodRemoved) {
	c.mu.Lock()
	c.removed[r.Uid], c.final[r.Uid] = true, r.Status
	c.mu.Unlock()
	c.notify()
}

func (c *collector) StaticPods(s *edgeapi.StaticPods) {
	c.mu.Lock()
	c.static = s
	c.mu.Unlock()
	c.notify()
}

func (c *collector) Event(e *edgeapi.Event) {
	c.mu.Lock()
	c.events = append(c.events, fmt.Sprintf("%s %s %s: %s", e.Type, e.Reason, e.FieldPath, e.Message))
	c.mu.Unlock()
	c.notify()
}

func (c *collector) hasEvent(part string) bool { return c.countEvents(part) > 0 }

func (c *collector) countEvents(part string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, e := range c.events {
		if strings.Contains(e, part) {
			n++
		}
	}
	return n
}

func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{t: t, allocatable: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi"),
	}}
	d.server, d.dir = containerdtest.Start(t, testImage)
	t.Cleanup(func() {
		if d.stop != nil {
			d.stop()
		}
	})
	d.start()
	return d
}

// start starts the agent's part, as after a restart of the agent.
func (d *device) start() {
	d.t.Helper()
	var rt runtime.Runtime
	client, err := cri.New(d.t.Context(), d.server.Endpoint())
	if err != nil {
		d.t.Fatal(err)
	}
	if rt = client; d.wrap != nil {
		rt = d.wrap(client)
	}
	d.runtime = rt
	d.sink = newCollector()
	d.manager, err = New(Config{
		Runtime:  rt,
		StateDir: filepath.Join(d.dir, "state"), SeccompDir: filepath.Join(d.dir, "state", "seccomp"), Key: testKey(d.t),
		LogDir:       filepath.Join(d.dir, "logs"),
		Sink:         d.sink,
		Node:         NodeInfo{Name: "device-1", HostIPs: []string{"192.0.2.7"}, Allocatable: d.allocatable},
		Clock:        d.clock,
		RelistPeriod: 200 * time.Millisecond,
		Cgroups:      cgroups.New(cmp.Or(d.cgroupMount, cgroups.DefaultMount), d.cgroupRoot()), PodPIDs: d.podPIDs,
		LogMaxSize: d.logMaxSize, AllowsHostPath: d.allowsHostPath,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	manager := d.manager
	go func() { done <- manager.Run(ctx) }()
	d.stop = func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Error(err)
		}
		if err := rt.Close(context.Background()); err != nil {
			d.t.Error(err)
		}
		d.stop = nil
	}
}

func (d *device) restart() {
	d.t.Helper()
	d.stop()
	d.start()
}

// run gives a pod to the manager.
func (d *device) run(pod *v1.Pod, volumes ...*edgeapi.VolumeData) {
	d.t.Helper()
	data, err := pod.Marshal()
	if err != nil {
		d.t.Fatal(err)
	}
	d.manager.RunPod(&edgeapi.RunPod{Uid: string(pod.UID), Pod: data, Volumes: volumes, Digest: "d1", VolumesDigest: "v1"})
}

// wait until the condition holds.
func (d *device) wait(what string, condition func() bool) {
	d.t.Helper()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-d.sink.changed:
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			d.sink.mu.Lock()
			defer d.sink.mu.Unlock()
			for uid, s := range d.sink.statuses {
				d.t.Logf("status of %s: %v", uid, s)
			}
			d.t.Fatalf("timed out waiting for %s; events:\n%s", what, strings.Join(d.sink.events, "\n"))
		}
	}
}

func (d *device) status(pod *v1.Pod) *v1.PodStatus {
	d.sink.mu.Lock()
	defer d.sink.mu.Unlock()
	if s := d.sink.statuses[string(pod.UID)]; s != nil {
		return s
	}
	return &v1.PodStatus{}
}

func (d *device) waitPhase(pod *v1.Pod, phase v1.PodPhase) {
	d.t.Helper()
	d.wait("phase "+string(phase), func() bool { return d.status(pod).Phase == phase })
}

func (d *device) waitReady(pod *v1.Pod) {
	d.t.Helper()
	d.wait("the pod to be ready", func() bool { return conditionIs(d.status(pod), v1.PodReady, v1.ConditionTrue) })
}

func conditionIs(s *v1.PodStatus, t v1.PodConditionType, want v1.ConditionStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c.Status == want
		}
	}
	return false
}

// exec runs a command in a container and returns its output.
func (d *device) exec(pod *v1.Pod, container string, stdin io.Reader, command ...string) (string, error) {
	d.t.Helper()
	id, err := d.manager.ContainerID(string(pod.UID), container)
	if err != nil {
		d.t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	err = d.runtime.ExecStream(d.t.Context(), id, command, runtime.IO{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	return stdout.String() + stderr.String(), err
}

func (d *device) mustExec(pod *v1.Pod, container string, command ...string) string {
	d.t.Helper()
	out, err := d.exec(pod, container, nil, command...)
	if err != nil {
		d.t.Fatalf("%v: %v: %s", command, err, out)
	}
	return strings.TrimSpace(out)
}

// remove deletes a pod and checks that nothing of it is left.
func (d *device) remove(pod *v1.Pod, grace int64) {
	d.t.Helper()
	d.manager.DeletePod(&edgeapi.DeletePod{Uid: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, GracePeriodSeconds: grace})
	d.wait("the pod to be removed", func() bool {
		d.sink.mu.Lock()
		defer d.sink.mu.Unlock()
		return d.sink.removed[string(pod.UID)]
	})
	selector := map[string]string{"io.kubernetes.pod.uid": string(pod.UID)}
	containers, err := d.runtime.ListContainers(d.t.Context(), &runtimeapi.ContainerFilter{LabelSelector: selector})
	if err != nil || len(containers) > 0 {
		d.t.Errorf("containers left behind: %v, %v", containers, err)
	}
	sandboxes, err := d.runtime.ListPodSandbox(d.t.Context(), &runtimeapi.PodSandboxFilter{LabelSelector: selector})
	if err != nil || len(sandboxes) > 0 {
		d.t.Errorf("sandboxes left behind: %v, %v", sandboxes, err)
	}
	for _, path := range []string{d.manager.volumes.PodDir(string(pod.UID)), podutil.LogDir(d.manager.cfg.LogDir, pod.Namespace, pod.Name, string(pod.UID))} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			d.t.Errorf("%s is left behind: %v", path, err)
		}
	}
	if dirs := d.cgroupsOf(pod); len(dirs) > 0 {
		d.t.Errorf("cgroups left behind: %v", dirs)
	}
	if records, errs := d.manager.store.Load(); records[string(pod.UID)] != nil || len(errs) > 0 {
		d.t.Errorf("record left behind: %v, %v", records, errs)
	}
}

// newPod returns a pod as the API server would have defaulted it.
func newPod(name string, containers ...v1.Container) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uuid.NewString()), Generation: 1,
			Labels: map[string]string{"app": name}, Annotations: map[string]string{"note": "x"}},
		Spec: v1.PodSpec{
			RestartPolicy: v1.RestartPolicyAlways, DNSPolicy: v1.DNSDefault, NodeName: "device-1", ServiceAccountName: "default",
			TerminationGracePeriodSeconds: ptr.To[int64](2), Containers: containers,
		},
	}
	return pod
}

func box(name string, command ...string) v1.Container {
	return v1.Container{
		Name: name, Image: testImage, Command: command, ImagePullPolicy: v1.PullIfNotPresent,
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: v1.TerminationMessageReadFile,
	}
}

// script is a container that runs a shell script and ends at once on SIGTERM.
func script(name, text string) v1.Container {
	return box(name, "/bin/sh", "-c", "trap 'exit 0' TERM; "+text)
}

const forever = "while :; do sleep 0.1; done"

func fieldEnv(name, path string) v1.EnvVar {
	return v1.EnvVar{Name: name, ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}

package pods

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
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
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/pkg/edge/agent/runtime/cri"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/containerd"
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
}

// collector keeps what a Sink is told.
type collector struct {
	mu       sync.Mutex
	statuses map[string]*v1.PodStatus
	removed  map[string]bool
	events   []string
	changed  chan struct{}
}

func newCollector() *collector {
	return &collector{statuses: map[string]*v1.PodStatus{}, removed: map[string]bool{}, changed: make(chan struct{}, 1)}
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
	c.removed[r.Uid] = true
	c.mu.Unlock()
	c.notify()
}

func (c *collector) Event(e *edgeapi.Event) {
	c.mu.Lock()
	c.events = append(c.events, fmt.Sprintf("%s %s %s: %s", e.Type, e.Reason, e.FieldPath, e.Message))
	c.mu.Unlock()
	c.notify()
}

func (c *collector) hasEvent(part string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if strings.Contains(e, part) {
			return true
		}
	}
	return false
}

func newDevice(t *testing.T) *device {
	t.Helper()
	if err := containerd.Check(); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "pods")
	if err != nil {
		t.Fatal(err)
	}
	image, err := containerd.Busybox(testImage)
	if err != nil {
		t.Fatal(err)
	}
	server, err := containerd.Start(t.Context(), containerd.Options{Dir: filepath.Join(dir, "ctrd"), Subnet: "10.98.0.0/24"}, image)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, server: server, dir: dir}
	t.Cleanup(func() {
		if d.stop != nil {
			d.stop()
		}
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "ctrd", "containerd.log"))
			t.Logf("containerd: %s", log[max(0, len(log)-4000):])
		}
		if err := unmountAndRemove(dir); err != nil {
			t.Error(err)
		}
	})
	d.start()
	return d
}

// start starts the agent's part, as after a restart of the agent.
func (d *device) start() {
	d.t.Helper()
	rt, err := cri.New(d.t.Context(), d.server.Endpoint())
	if err != nil {
		d.t.Fatal(err)
	}
	d.runtime = rt
	d.sink = newCollector()
	d.manager, err = New(Config{
		Runtime:  rt,
		StateDir: filepath.Join(d.dir, "state"),
		LogDir:   filepath.Join(d.dir, "logs"),
		Sink:     d.sink,
		Node: NodeInfo{Name: "device-1", HostIPs: []string{"192.0.2.7"}, Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi"),
		}},
		RelistPeriod: 200 * time.Millisecond,
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

func TestContainerdEnvironmentAndVolumes(t *testing.T) {
	d := newDevice(t)
	c := script("main", forever)
	c.Env = []v1.EnvVar{
		{Name: "PLAIN", Value: "a"}, {Name: "REF", Value: "$(PLAIN)-$(MISSING)-$$(PLAIN)"},
		fieldEnv("POD_IP", "status.podIP"), fieldEnv("HOST_IP", "status.hostIP"), fieldEnv("LABEL", "metadata.labels['app']"),
		{Name: "CPUS", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu"}}},
	}
	c.Command = []string{"/bin/sh", "-c", "echo $(PLAIN) > /data/arg; trap 'exit 0' TERM; " + forever}
	c.WorkingDir = "/tmp"
	c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
	c.Resources.Requests = c.Resources.Limits
	c.SecurityContext = &v1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false)}
	c.VolumeMounts = []v1.VolumeMount{
		{Name: "data", MountPath: "/data"}, {Name: "mem", MountPath: "/mem"}, {Name: "config", MountPath: "/config"},
		{Name: "secret", MountPath: "/secret"}, {Name: "token", MountPath: "/var/run/token"}, {Name: "down", MountPath: "/down"},
		{Name: "data", MountPath: "/sub", SubPath: "a/b"}, {Name: "config", MountPath: "/single", SubPath: "key"},
	}
	pod := newPod("volumes", c)
	pod.Spec.Hostname = "box"
	pod.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"alias.example"}}}
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](1234), RunAsUser: ptr.To[int64](1000), RunAsGroup: ptr.To[int64](1000)}
	pod.Spec.Volumes = []v1.Volume{
		{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("1Mi"))}}},
		{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}},
		{Name: "secret", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s"}}},
		{Name: "token", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
		}}}},
		{Name: "down", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
	}
	d.run(pod,
		&edgeapi.VolumeData{Name: "config", Files: []*edgeapi.File{{Path: "key", Data: []byte("one"), Mode: 0o644}}},
		&edgeapi.VolumeData{Name: "secret", Files: []*edgeapi.File{{Path: "dir/pass", Data: []byte("hush"), Mode: 0o400}}},
		&edgeapi.VolumeData{Name: "token", Files: []*edgeapi.File{{Path: "token", Data: []byte("tok"), Mode: 0o644}}})
	d.waitReady(pod)
	s := d.status(pod)
	if s.PodIP == "" || s.HostIP != "192.0.2.7" || s.QOSClass != v1.PodQOSBurstable {
		t.Errorf("got pod IP %q, host IP %q, QoS %q", s.PodIP, s.HostIP, s.QOSClass)
	}
	for command, want := range map[string]string{
		"echo $REF":                  "a-$(MISSING)-$(PLAIN)",
		"echo $POD_IP":               s.PodIP,
		"echo $HOST_IP $LABEL $CPUS": "192.0.2.7 volumes 2",
		"cat /data/arg":              "a",
		"pwd":                        "/tmp",
		"cat /config/key /secret/dir/pass /single":          "onehushone",
		"cat /var/run/token/token /var/run/token/namespace": "tokdefault",
		"cat /down/labels":                           `app="volumes"`,
		"stat -c %a:%g /var/run/token/..data/token":  "640:1234",
		"stat -c %a:%g /secret/..data/dir/pass":      "440:1234",
		"stat -c %g /data":                           "1234",
		"stat -c %u:%g /proc/1":                      "1000:1000",
		"hostname":                                   "box",
		"grep -c alias.example /etc/hosts":           "1",
		"grep box /etc/hosts":                        s.PodIP + "\tbox",
		"touch /x 2>&1 | grep -c 'Read-only'":        "1",
		"touch /config/x 2>&1 | grep -c 'Read-only'": "1",
		"touch /sub/file && ls /data/a/b":            "file",
		"df -k /mem | awk 'NR==2{print $2}'":         "1024",
		"grep NoNewPrivs /proc/self/status":          "NoNewPrivs:\t1",
	} {
		if got := d.mustExec(pod, "main", "/bin/sh", "-c", command); got != want {
			t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
	d.manager.UpdateVolumes(&edgeapi.UpdateVolumes{Uid: string(pod.UID), VolumesDigest: "v2", Volumes: []*edgeapi.VolumeData{
		{Name: "config", Files: []*edgeapi.File{{Path: "key", Data: []byte("two"), Mode: 0o644}, {Path: "more", Data: []byte("new"), Mode: 0o644}}}}})
	d.wait("the update of the volume", func() bool {
		return d.mustExec(pod, "main", "/bin/sh", "-c", "cat /config/key; cat /config/more 2>/dev/null || true") == "twonew"
	})
	if digests := d.manager.Digests(); len(digests) != 1 || digests[0].VolumesDigest != "v2" || digests[0].Digest != "d1" {
		t.Errorf("got digests %v", digests)
	}
	d.remove(pod, 1)
}

func TestContainerdStreams(t *testing.T) {
	d := newDevice(t)
	pod := newPod("streams", script("main", "echo hello; mkdir -p /tmp/w; echo content > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; "+forever))
	echo := box("echo", "/bin/sh", "-c", "while :; do nc -l -p 9000 -e cat; done")
	pod.Spec.Containers = append(pod.Spec.Containers, echo)
	d.run(pod)
	d.waitReady(pod)

	if out, err := d.exec(pod, "main", strings.NewReader("from stdin"), "cat"); err != nil || out != "from stdin" {
		t.Errorf("exec with stdin: %q, %v", out, err)
	}
	_, err := d.exec(pod, "main", nil, "/bin/sh", "-c", "exit 42")
	if exit, ok := err.(utilexec.ExitError); !ok || exit.ExitStatus() != 42 {
		t.Errorf("got %v (%T), want exit code 42", err, err)
	}
	id, err := d.manager.ContainerID(string(pod.UID), "main")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sizes := make(chan runtime.TerminalSize, 1)
	sizes <- runtime.TerminalSize{Width: 91, Height: 17}
	close(sizes)
	err = d.runtime.ExecStream(t.Context(), id, []string{"/bin/sh", "-c", "until [ \"$(stty size)\" = '17 91' ]; do sleep 0.05; done; stty size"},
		runtime.IO{Stdin: neverEnding(t), Stdout: &out, TTY: true, Resize: sizes})
	if err != nil || !strings.Contains(out.String(), "17 91") {
		t.Errorf("tty: %q, %v", out.String(), err)
	}

	path, _, err := d.manager.ContainerLog(string(pod.UID), "main", false)
	if err != nil {
		t.Fatal(err)
	}
	d.wait("the log", func() bool { data, _ := os.ReadFile(path); return strings.HasSuffix(string(data), "stdout F hello\n") })
	if _, _, err := d.manager.ContainerLog(string(pod.UID), "main", true); err == nil {
		t.Error("there is no previous instance, but a log of it")
	}

	sandbox, err := d.manager.SandboxID(string(pod.UID))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.runtime.DialPod(t.Context(), sandbox, 8080)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(answer), "content") {
		t.Errorf("port-forward: %q, %v", answer, err)
	}
	conn.Close()

	// The echo server answers until it sees the end of what we send.
	conn, err = d.runtime.DialPod(t.Context(), sandbox, 9000)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "half")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "half" {
		t.Errorf("half-close: %q, %v", answer, err)
	}
	conn.Close()

	conn, err = d.runtime.DialPod(t.Context(), sandbox, 9)
	if err == nil {
		_, err = io.ReadAll(conn)
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("closed port: got %v, want that the connection was refused", err)
	}
	d.remove(pod, 1)
}

// neverEnding is a stdin on which nothing comes until the test is over.
func neverEnding(t *testing.T) io.Reader {
	r, w := net.Pipe()
	t.Cleanup(func() { w.Close(); r.Close() })
	return r
}

func TestContainerdRestartsAndExits(t *testing.T) {
	d := newDevice(t)
	crash := newPod("crash", script("main", "echo last words > /dev/termination-log; exit 3"))
	failing := newPod("failing", script("main", "exit 7"))
	failing.Spec.RestartPolicy = v1.RestartPolicyNever
	job := newPod("job", script("main", "cat /shared/x"))
	job.Spec.RestartPolicy = v1.RestartPolicyOnFailure
	init := script("init", "echo made > /shared/x")
	job.Spec.Volumes = []v1.Volume{{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	init.VolumeMounts = []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	job.Spec.Containers[0].VolumeMounts = init.VolumeMounts
	job.Spec.InitContainers = []v1.Container{init}
	missing := newPod("missing", box("main", "/no/such/program"))
	noImage := newPod("noimage", box("main"))
	noImage.Spec.Containers[0].Image, noImage.Spec.Containers[0].ImagePullPolicy = "test.local/absent:1", v1.PullNever
	for _, pod := range []*v1.Pod{crash, failing, job, missing, noImage} {
		d.run(pod)
	}
	d.wait("CrashLoopBackOff", func() bool {
		s := d.status(crash)
		return len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].State.Waiting != nil &&
			s.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff" && s.ContainerStatuses[0].RestartCount >= 1
	})
	cs := d.status(crash).ContainerStatuses[0]
	if want := fmt.Sprintf("back-off 10s restarting failed container=main pod=crash_default(%s)", crash.UID); cs.State.Waiting.Message != want {
		t.Errorf("got %q, want %q", cs.State.Waiting.Message, want)
	}
	if last := cs.LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Message != "last words\n" || last.Reason != "Error" {
		t.Errorf("got last state %v", last)
	}
	if d.status(crash).Phase != v1.PodRunning {
		t.Errorf("got phase %s", d.status(crash).Phase)
	}
	if path, _, err := d.manager.ContainerLog(string(crash.UID), "main", true); err != nil || path == "" {
		t.Errorf("previous log: %v", err)
	}
	d.waitPhase(failing, v1.PodFailed)
	if end := d.status(failing).ContainerStatuses[0].State.Terminated; end == nil || end.ExitCode != 7 {
		t.Errorf("got %v, want exit code 7", end)
	}
	d.waitPhase(job, v1.PodSucceeded)
	if s := d.status(job).InitContainerStatuses[0]; s.State.Terminated == nil || !s.Ready {
		t.Errorf("got init container %v", s)
	}
	d.wait("the failed start", func() bool {
		s := d.status(missing)
		return len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].State.Waiting != nil && s.ContainerStatuses[0].State.Waiting.Reason == "RunContainerError" ||
			len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].LastTerminationState.Terminated != nil
	})
	d.wait("ErrImageNeverPull", func() bool {
		s := d.status(noImage)
		return len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].State.Waiting != nil && s.ContainerStatuses[0].State.Waiting.Reason == "ErrImageNeverPull"
	})
	for _, event := range []string{"Normal Started spec.containers{main}: Container started", "Warning BackOff spec.containers{main}: Back-off restarting failed container main",
		"Normal Created spec.initContainers{init}", "Warning ErrImageNeverPull"} {
		if !d.sink.hasEvent(event) {
			t.Errorf("no event %q in %q", event, d.sink.events)
		}
	}
	for _, pod := range []*v1.Pod{crash, failing, job, missing, noImage} {
		d.remove(pod, 0)
	}
}

func TestContainerdSurvivesRestarts(t *testing.T) {
	d := newDevice(t)
	c := script("main", forever)
	c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}, PeriodSeconds: 1}
	pod := newPod("steady", c)
	d.run(pod)
	d.waitReady(pod)
	before := d.status(pod).ContainerStatuses[0]
	same := func(when string) {
		t.Helper()
		after := d.status(pod)
		if len(after.ContainerStatuses) == 0 {
			return // nothing to tell: no status was sent
		}
		if cs := after.ContainerStatuses[0]; cs.ContainerID != before.ContainerID || cs.RestartCount != 0 || !cs.Ready {
			t.Errorf("%s: got %+v, want container %s, ready and never restarted", when, cs, before.ContainerID)
		}
	}

	d.restart()
	if digests := d.manager.Digests(); len(digests) != 1 || digests[0].Digest != "d1" {
		t.Errorf("got digests %v after the agent's restart", digests)
	}
	d.wait("the container to be found again", func() bool {
		id, err := d.manager.ContainerID(string(pod.UID), "main")
		return err == nil && strings.HasSuffix(before.ContainerID, id)
	})
	same("after the agent's restart")
	d.run(pod) // as the cloud would after a reconnect with another digest
	d.manager.ResendStatuses()
	d.wait("the status again", func() bool { return len(d.status(pod).ContainerStatuses) == 1 })
	same("after a reconnect")

	if err := d.server.Kill(); err != nil {
		t.Fatal(err)
	}
	second := newPod("second", script("main", forever))
	d.run(second) // while the runtime is away
	if err := d.server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.waitReady(second)
	same("after kill -9 of containerd")
	if out := d.mustExec(pod, "main", "echo", "alive"); out != "alive" {
		t.Errorf("got %q", out)
	}

	// A container that is killed behind the agent's back comes back, with its count.
	if err := d.runtime.StopContainer(t.Context(), strings.TrimPrefix(before.ContainerID, "containerd://"), 0); err != nil {
		t.Fatal(err)
	}
	d.wait("the restart", func() bool {
		s := d.status(pod)
		return len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].RestartCount == 1 && s.ContainerStatuses[0].Ready
	})
	d.restart()
	d.manager.Desired(&edgeapi.DesiredPods{Pods: []*edgeapi.PodDigest{{Uid: string(pod.UID)}}})
	d.wait("the pod that is not wanted to go", func() bool {
		d.sink.mu.Lock()
		defer d.sink.mu.Unlock()
		return d.sink.removed[string(second.UID)]
	})
	d.remove(pod, 1)
}

func TestContainerdProbesHooksAndSidecars(t *testing.T) {
	d := newDevice(t)
	sidecar := script("proxy", "echo sidecar up; "+forever)
	sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}, PeriodSeconds: 1}
	main := script("main", "mkdir /w; echo fine > /w/health; httpd -p 8080 -h /w; "+forever)
	main.Lifecycle = &v1.Lifecycle{
		PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"/bin/sh", "-c", "echo started > /shared/hooks"}}},
		PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"/bin/sh", "-c", "echo stopping >> /shared/hooks"}}},
	}
	main.LivenessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/health", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1, FailureThreshold: 2, InitialDelaySeconds: 1}
	main.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1}
	shared := filepath.Join(d.dir, "shared")
	if err := os.MkdirAll(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	main.VolumeMounts = []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	pod := newPod("probes", main)
	pod.Spec.InitContainers = []v1.Container{sidecar, script("init", "exit 0")}
	pod.Spec.Volumes = []v1.Volume{{Name: "shared", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: shared}}}}
	d.run(pod)
	d.waitReady(pod)
	hooks := func() string { data, _ := os.ReadFile(filepath.Join(shared, "hooks")); return string(data) }
	if hooks() != "started\n" {
		t.Errorf("postStart: got %q", hooks())
	}
	if s := d.status(pod).InitContainerStatuses; s[0].State.Running == nil || !*s[0].Started || s[1].State.Terminated == nil {
		t.Errorf("got init containers %v", s)
	}
	d.mustExec(pod, "main", "rm", "/w/health")
	d.wait("the restart for the liveness probe", func() bool {
		s := d.status(pod)
		return s.ContainerStatuses[0].RestartCount == 1 && s.ContainerStatuses[0].Ready
	})
	if hooks() != "started\nstopping\nstarted\n" && hooks() != "started\n" {
		t.Errorf("hooks around the restart: got %q", hooks())
	}
	for _, event := range []string{"Unhealthy spec.containers{main}: Liveness probe failed: HTTP probe failed with statuscode: 404",
		"Killing spec.containers{main}: Container main failed liveness probe, will be restarted"} {
		if !d.sink.hasEvent(event) {
			t.Errorf("no event %q", event)
		}
	}
	pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon(script("debug", forever)), TargetContainerName: "main"}}
	d.run(pod)
	d.wait("the ephemeral container", func() bool {
		s := d.status(pod).EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Running != nil
	})
	if out := d.mustExec(pod, "debug", "ps"); !strings.Contains(out, "httpd") {
		t.Errorf("the ephemeral container does not see its target's processes: %s", out)
	}
	d.remove(pod, 5)
	if !strings.HasSuffix(hooks(), "stopping\n") {
		t.Errorf("preStop: got %q", hooks())
	}
}

package pods

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// expect runs shell commands in a container and compares what they print.
func (d *device) expect(pod *v1.Pod, container string, want map[string]string) {
	d.t.Helper()
	for command, output := range want {
		if got := d.mustExec(pod, container, "/bin/sh", "-c", command); got != output {
			d.t.Errorf("%s/%s: %s: got %q, want %q", pod.Name, container, command, got, output)
		}
	}
}

func (d *device) waitWaiting(pod *v1.Pod, reason, message string) {
	d.t.Helper()
	d.wait(reason, func() bool {
		s := d.status(pod)
		if len(s.ContainerStatuses) == 0 || s.ContainerStatuses[0].State.Waiting == nil {
			return false
		}
		w := s.ContainerStatuses[0].State.Waiting
		return w.Reason == reason && strings.Contains(w.Message, message)
	})
}

// TestContainerdNames is about what a container sees of its pod, its host and others: names, processes,
// the resolver.
func TestContainerdNames(t *testing.T) {
	d := newDevice(t)
	named := newPod("named", script("main", forever))
	named.Spec.Hostname, named.Spec.Subdomain, named.Spec.SetHostnameAsFQDN = "web", "sub", ptr.To(true)
	named.Spec.DNSPolicy = v1.DNSNone
	named.Spec.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"192.0.2.53"}, Searches: []string{"a.example", "b.example"},
		Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("3")}, {Name: "rotate"}}}
	named.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"x.example", "y.example"}}}
	shared := newPod("shared", script("main", forever), script("peer", forever))
	shared.Spec.ShareProcessNamespace = ptr.To(true)
	shared.Spec.DNSPolicy, shared.Spec.DNSConfig = v1.DNSClusterFirst, &v1.PodDNSConfig{Searches: []string{"c.example"}}
	host := newPod("host", script("main", forever))
	host.Spec.HostPID, host.Spec.HostIPC, host.Spec.HostNetwork, host.Spec.DNSPolicy = true, true, true, v1.DNSClusterFirst
	hostOfCluster := newPod("host-of-cluster", script("main", forever))
	hostOfCluster.Spec.HostNetwork, hostOfCluster.Spec.DNSPolicy = true, v1.DNSClusterFirstWithHostNet
	d.manager.SetNode(NodeInfo{Name: "device-1", HostIPs: []string{"192.0.2.7"}, Allocatable: d.allocatable, PodDNS: &v1.PodDNSConfig{
		Nameservers: []string{"192.0.2.10"}, Searches: []string{"svc.cluster.example"}}})
	all := []*v1.Pod{named, shared, host, hostOfCluster}
	for _, pod := range all {
		d.run(pod)
	}
	for _, pod := range all {
		d.waitReady(pod)
	}
	ip := d.status(named).PodIP
	d.expect(named, "main", map[string]string{
		"hostname":                   "web.sub.default.svc.cluster.example",
		"grep " + ip + " /etc/hosts": ip + "\tweb.sub.default.svc.cluster.example\tweb",
		"grep 192.0.2.9 /etc/hosts":  "192.0.2.9\tx.example\ty.example",
		"head -1 /etc/hosts":         "# Kubernetes-managed hosts file.",
		"sort /etc/resolv.conf":      "nameserver 192.0.2.53\noptions ndots:3 rotate\nsearch a.example b.example",
	})
	if out := d.mustExec(named, "main", "cat", "/proc/1/comm"); out != "sh" {
		t.Errorf("the first process of a pod with processes of its own is %q", out)
	}
	d.expect(shared, "main", map[string]string{
		"ps | grep -c '[t]rap'": "2",
		"sort /etc/resolv.conf": "nameserver 192.0.2.10\nsearch svc.cluster.example c.example",
	})
	d.expect(hostOfCluster, "main", map[string]string{"grep nameserver /etc/resolv.conf": "nameserver 192.0.2.10"})
	d.expect(host, "main", map[string]string{
		"hostname":                                    hostname(t),
		"readlink /proc/self/ns/pid":                  link(t, "/proc/self/ns/pid"),
		"readlink /proc/self/ns/ipc":                  link(t, "/proc/self/ns/ipc"),
		"readlink /proc/self/ns/net":                  link(t, "/proc/self/ns/net"),
		"head -1 /etc/hosts":                          "# Kubernetes-managed hosts file (host network).",
		"grep -c 192.0.2.10 /etc/resolv.conf || true": "0", // the resolver is the device's own
	})
	if s := d.status(host); s.PodIP != s.HostIP {
		t.Errorf("got pod IP %s on host %s", s.PodIP, s.HostIP)
	}
}

func hostname(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func link(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// TestContainerdSecurity is about whom a container runs as and what it may do.
func TestContainerdSecurity(t *testing.T) {
	d := newDevice(t)
	plain, dropped, added, privileged := script("plain", forever), script("dropped", forever), script("added", forever), script("privileged", forever)
	dropped.SecurityContext = &v1.SecurityContext{Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_BIND_SERVICE"}},
		SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}
	added.SecurityContext = &v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []v1.Capability{"SYS_TIME"}}, RunAsUser: ptr.To[int64](0)}
	privileged.SecurityContext = &v1.SecurityContext{Privileged: ptr.To(true), RunAsUser: ptr.To[int64](0)}
	profiles := filepath.Join(d.dir, "state", "seccomp")
	if err := os.MkdirAll(profiles, 0o755); err != nil {
		t.Fatal(err)
	}
	const profile = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(filepath.Join(profiles, "nodirs.json"), []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	local := script("local", forever)
	local.SecurityContext = &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("nodirs.json")}}
	unmasked := script("unmasked", forever)
	unmasked.SecurityContext = &v1.SecurityContext{ProcMount: ptr.To(v1.UnmaskedProcMount)}
	pod := newPod("secure", plain, dropped, added, privileged, local, unmasked)
	pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr.To[int64](1001), RunAsGroup: ptr.To[int64](1002),
		SupplementalGroups: []int64{1003}, FSGroup: ptr.To[int64](1004), Sysctls: []v1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "80"}}}
	root := newPod("root", script("main", forever))
	root.Spec.SecurityContext = &v1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}
	unsafe := newPod("unsafe", script("main", forever))
	unsafe.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
	armoured := newPod("armoured", script("main", forever))
	armoured.Spec.SecurityContext = &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}}
	for _, p := range []*v1.Pod{pod, root, unsafe, armoured} {
		d.run(p)
	}
	d.waitReady(pod)
	const (
		bounding = "grep CapBnd /proc/1/status | cut -f2"
		seccomp  = "grep Seccomp: /proc/1/status | cut -f2"
	)
	d.expect(pod, "plain", map[string]string{
		"id -u; id -g": "1001\n1002",
		"id -G":        "1002 1003 1004",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start": "80",
		bounding:                             "00000000a80425fb",
		seccomp:                              "0",
		"test -s /proc/kcore || echo masked": "masked",
		"grep -c ' /proc/sys ' /proc/self/mountinfo":                                    "1",
		"touch /proc/sys/kernel/x 2>&1 | grep -c -i 'read-only\\|no such\\|permission'": "1",
	})
	d.expect(pod, "dropped", map[string]string{bounding: "0000000000000400", seccomp: "2"})
	d.expect(pod, "local", map[string]string{seccomp: "2", "mkdir /tmp/local 2>&1 | grep -c 'not permitted'": "1"})
	d.expect(pod, "unmasked", map[string]string{"grep -c ' /proc/' /proc/self/mountinfo || true": "0"}) // nothing is mounted over it
	d.expect(pod, "added", map[string]string{"id -u": "0", bounding: "00000000aa0425fb"})
	if got := d.mustExec(pod, "privileged", "/bin/sh", "-c", bounding); got <= "00000000aa0425fb" {
		t.Errorf("the privileged container has the capabilities %s", got)
	}
	d.waitWaiting(root, "CreateContainerConfigError", "container has runAsNonRoot and image will run as root (pod: \"root_default(")
	d.waitPhase(unsafe, v1.PodFailed)
	if s := d.status(unsafe); s.Reason != "SysctlForbidden" || s.Message != `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted` {
		t.Errorf("got %q, %q", s.Reason, s.Message)
	}
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err == nil {
		d.waitReady(armoured)
		return
	}
	d.waitPhase(armoured, v1.PodFailed)
	if s := d.status(armoured); s.Reason != "AppArmor" || s.Message != "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host" {
		t.Errorf("got %q, %q", s.Reason, s.Message)
	}
}

// TestContainerdResources is about QoS classes and what follows from them.
func TestContainerdResources(t *testing.T) {
	d := newDevice(t)
	d.manager.SetNode(NodeInfo{Name: "device-1", HostIPs: []string{"192.0.2.7"}, Allocatable: d.allocatable, Capacity: d.allocatable})
	list := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	best, burst, guaranteed := newPod("best", script("main", forever)), newPod("burst", script("main", forever)), newPod("guaranteed", script("main", forever))
	burst.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: list("100m", "64Mi"), Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("128Mi")}}
	guaranteed.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: list("200m", "32Mi"), Limits: list("200m", "32Mi")}
	huge := newPod("huge", script("main", forever))
	pages := v1.ResourceList{"hugepages-2Mi": resource.MustParse("2Mi")}
	huge.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: pages, Limits: pages}
	for pod, class := range map[*v1.Pod]v1.PodQOSClass{best: v1.PodQOSBestEffort, burst: v1.PodQOSBurstable, guaranteed: v1.PodQOSGuaranteed} {
		d.run(pod)
		d.waitReady(pod)
		if got := d.status(pod).QOSClass; got != class {
			t.Errorf("%s: got %s", pod.Name, got)
		}
	}
	oom := func(pod *v1.Pod) string { return d.mustExec(pod, "main", "cat", "/proc/1/oom_score_adj") }
	if got := oom(best); got != "1000" {
		t.Errorf("best effort: oom_score_adj is %s", got)
	}
	if got := oom(burst); got != "938" { // of 1000, less the sixteenth of the memory that it asks for
		t.Errorf("burstable: oom_score_adj is %s", got)
	}
	if got := limitsOf(d, guaranteed, "main"); got != "20000 100000\n33554432" {
		t.Errorf("guaranteed: got %q", got)
	}
	d.run(huge)
	d.waitPhase(huge, v1.PodFailed)
	if s := d.status(huge); s.Reason != "OutOfhugepages-2Mi" {
		t.Errorf("huge pages: got %q, %q", s.Reason, s.Message)
	}
}

// TestContainerdMounts is about how volumes come into containers.
func TestContainerdMounts(t *testing.T) {
	d := newDevice(t)
	shared := filepath.Join(d.dir, "shared")
	if err := os.MkdirAll(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	// Propagation needs a mount that is shared with others.
	if err := unix.Mount("tmpfs", shared, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	mount := func(name, path string, change ...func(*v1.VolumeMount)) v1.VolumeMount {
		m := v1.VolumeMount{Name: name, MountPath: path}
		for _, f := range change {
			f(&m)
		}
		return m
	}
	propagated := func(mode v1.MountPropagationMode) func(*v1.VolumeMount) {
		return func(m *v1.VolumeMount) { m.MountPropagation = &mode }
	}
	writer := script("writer", "printf \"KEY='from a file'\\n\" > /work/env")
	writer.VolumeMounts = []v1.VolumeMount{mount("work", "/work")}
	main := script("main", forever)
	main.Env = []v1.EnvVar{fieldEnv("NAME", "metadata.name"),
		{Name: "FILE", ValueFrom: &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "work", Path: "env", Key: "KEY"}}}}
	main.VolumeMounts = []v1.VolumeMount{
		mount("work", "/expr", func(m *v1.VolumeMount) { m.SubPathExpr = "logs/$(NAME)" }),
		mount("work", "/ro", func(m *v1.VolumeMount) { m.ReadOnly = true }),
		mount("host", "/slave", propagated(v1.MountPropagationHostToContainer)), mount("host", "/private"),
		mount("made", "/made"), mount("file", "/file"), mount("device", "/null"),
	}
	maker := script("maker", "mkdir -p /host/inner && mount -t tmpfs none /host/inner && echo deep > /host/inner/file; "+forever)
	maker.SecurityContext = &v1.SecurityContext{Privileged: ptr.To(true)}
	maker.VolumeMounts = []v1.VolumeMount{mount("host", "/host", propagated(v1.MountPropagationBidirectional))}
	pod := newPod("mounts", main, maker)
	pod.Spec.InitContainers = []v1.Container{writer}
	hostPath := func(name, path string, kind v1.HostPathType) v1.Volume {
		return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}}}
	}
	pod.Spec.Volumes = []v1.Volume{
		{Name: "work", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		hostPath("host", shared, v1.HostPathDirectory),
		hostPath("made", filepath.Join(d.dir, "made"), v1.HostPathDirectoryOrCreate),
		hostPath("file", filepath.Join(d.dir, "file"), v1.HostPathFileOrCreate),
		hostPath("device", "/dev/null", v1.HostPathCharDev),
	}
	d.run(pod)
	d.waitReady(pod)
	d.wait("the mount to be propagated", func() bool {
		return d.mustExec(pod, "main", "/bin/sh", "-c", "cat /slave/inner/file 2>/dev/null || true") == "deep"
	})
	d.expect(pod, "main", map[string]string{
		"ls /private/inner | wc -l":                                  "0",
		"echo $FILE":                                                 "from a file",
		"echo y > /expr/x; cat /ro/logs/mounts/x":                    "y",
		"touch /ro/y 2>&1 | grep -c Read-only":                       "1",
		"test -d /made && test -f /file && test -c /null && echo ok": "ok",
	})
	if data, err := os.ReadFile(filepath.Join(shared, "inner", "file")); err != nil || string(data) != "deep\n" {
		t.Errorf("on the host: %q, %v", data, err)
	}
	// What cannot be mounted is said, and does not come about.
	wrong := newPod("wrong", script("main", forever))
	wrong.Spec.Volumes = []v1.Volume{hostPath("v", filepath.Join(d.dir, "none"), v1.HostPathSocket)}
	claim := newPod("claim", script("main", forever))
	claim.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	recursive := newPod("recursive", script("main", forever))
	recursive.Spec.Volumes = pod.Spec.Volumes[:1]
	recursive.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{mount("work", "/work", func(m *v1.VolumeMount) {
		m.ReadOnly, m.RecursiveReadOnly = true, ptr.To(v1.RecursiveReadOnlyEnabled)
	})}
	for _, p := range []*v1.Pod{wrong, claim, recursive} {
		d.run(p)
	}
	for _, message := range []string{"FailedMount : MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: " + filepath.Join(d.dir, "none") + " is not a socket file",
		"FailedMount : MountVolume.SetUp failed for volume \"v\" : volumes of type persistentVolumeClaim cannot be used"} {
		d.wait(message, func() bool { return d.sink.hasEvent(message) })
	}
	d.waitWaiting(recursive, "CreateContainerConfigError", "recursive read-only mode, but it is not supported by the runtime")
	for _, p := range []*v1.Pod{wrong, claim, recursive, pod} {
		d.remove(p, 0)
	}
	_ = unix.Unmount(filepath.Join(shared, "inner"), unix.MNT_DETACH)
	if err := unix.Unmount(shared, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
}

// TestContainerdEnds is about probes over gRPC, gates, and how pods end.
func TestContainerdEnds(t *testing.T) {
	d := newDevice(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, service := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(server, service)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	service.SetServingStatus("main", healthpb.HealthCheckResponse_NOT_SERVING)
	d.manager.SetNode(NodeInfo{Name: "device-1", HostIPs: []string{"127.0.0.1"}, Allocatable: d.allocatable}) // where the server is

	gated := newPod("gated", script("main", forever))
	gated.Spec.HostNetwork = true
	gated.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	gated.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10, SuccessThreshold: 1, FailureThreshold: 1, ProbeHandler: v1.ProbeHandler{
		GRPC: &v1.GRPCAction{Port: int32(l.Addr().(*net.TCPAddr).Port), Service: ptr.To("main")}}}
	late := newPod("late", script("main", forever))
	late.Spec.ActiveDeadlineSeconds = ptr.To[int64](2)
	words := newPod("words", script("main", "echo only in the log; exit 4"))
	words.Spec.RestartPolicy = v1.RestartPolicyNever
	words.Spec.Containers[0].TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
	path := newPod("path", script("main", "echo left behind > /tmp/words; exit 4"))
	path.Spec.RestartPolicy = v1.RestartPolicyNever
	path.Spec.Containers[0].TerminationMessagePath = "/tmp/words"
	slow := newPod("slow", box("main", "/bin/sh", "-c", "trap '' TERM; "+forever))
	slow.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 1}}}
	for _, pod := range []*v1.Pod{gated, late, words, path, slow} {
		d.run(pod)
	}
	readiness := func(containers, pod v1.ConditionStatus, reason string) func() bool {
		return func() bool {
			s := d.status(gated)
			ready := conditionOf(s, v1.PodReady)
			return conditionIs(s, v1.ContainersReady, containers) && ready != nil && ready.Status == pod && ready.Reason == reason
		}
	}
	d.wait("the probe to fail", func() bool {
		return readiness(v1.ConditionFalse, v1.ConditionFalse, "ContainersNotReady")() && d.sink.hasEvent(`service unhealthy (responded with "NOT_SERVING")`)
	})
	service.SetServingStatus("main", healthpb.HealthCheckResponse_SERVING)
	d.wait("the gate alone to be missing", readiness(v1.ConditionTrue, v1.ConditionFalse, "ReadinessGatesNotReady"))
	gated = gated.DeepCopy()
	gated.Status.Conditions = []v1.PodCondition{{Type: "example.com/gate", Status: v1.ConditionTrue}}
	d.run(gated)
	d.wait("readiness", readiness(v1.ConditionTrue, v1.ConditionTrue, ""))

	d.waitPhase(late, v1.PodFailed)
	if s := d.status(late); s.Reason != "DeadlineExceeded" {
		t.Errorf("got %q, %q", s.Reason, s.Message)
	}
	d.waitPhase(words, v1.PodFailed)
	if end := d.status(words).ContainerStatuses[0].State.Terminated; end == nil || end.Message != "only in the log\n" || end.ExitCode != 4 {
		t.Errorf("got %v", end)
	}
	d.waitPhase(path, v1.PodFailed)
	if end := d.status(path).ContainerStatuses[0].State.Terminated; end == nil || end.Message != "left behind\n" {
		t.Errorf("got %v", end)
	}
	// A container that ignores SIGTERM is killed when its grace period is over, of which the hook is a part.
	d.waitReady(slow)
	begun := time.Now()
	d.remove(slow, 3)
	if took := time.Since(begun); took < 3*time.Second {
		t.Errorf("killed after %v, its grace period is 3 s", took)
	}
	if d.sink.hasEvent("FailedPreStopHook") {
		t.Error("the hook failed")
	}
	for _, pod := range []*v1.Pod{gated, late, words, path} {
		d.remove(pod, 0)
	}
}

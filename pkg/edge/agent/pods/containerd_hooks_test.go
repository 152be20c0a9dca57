package pods

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestContainerdHooks has hooks of each kind; those by exec are in TestContainerdProbesHooksAndSidecars.
func TestContainerdHooks(t *testing.T) {
	d := newDevice(t)
	get := func(path string) *v1.LifecycleHandler {
		return &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromString("hooks"), Scheme: v1.URISchemeHTTP,
			HTTPHeaders: []v1.HTTPHeader{{Name: "X-Hook", Value: "yes"}}}}
	}
	tcp := &v1.LifecycleHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(80)}}
	// The hook asks the container beside it, which writes that down, and does not end until it is killed.
	asked := newPod("asked", box("server", "/bin/sh", "-ec", `mkdir -p /w/cgi-bin
		printf '#!/bin/sh\necho "$REQUEST_URI $HTTP_X_HOOK" >> /marks/file; printf "Content-Type: text/plain\\r\\n\\r\\nok"' > /w/cgi-bin/hook
		chmod +x /w/cgi-bin/hook; exec httpd -f -p 8080 -h /w`),
		script("main", forever))
	asked.Spec.Containers[1].Ports = []v1.ContainerPort{{Name: "hooks", ContainerPort: 8080}}
	asked.Spec.Containers[1].Lifecycle = &v1.Lifecycle{PreStop: get("/cgi-bin/hook?stopping")}
	sleepy := newPod("sleepy", script("main", forever)) // ends at once when it is told to
	sleepy.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3}}}
	late := newPod("late", script("main", forever))
	late.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 2}}}
	failing, refused, deaf := newPod("failing", script("main", forever)), newPod("refused", script("main", forever)), newPod("deaf", script("main", forever))
	failing.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"false"}}}}
	refused.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: tcp}
	deaf.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: tcp}
	for _, pod := range []*v1.Pod{failing, refused} {
		pod.Spec.RestartPolicy = v1.RestartPolicyNever
		pod.Spec.Containers[0].Command = []string{"/bin/sh", "-c", "trap 'exit 9' TERM; " + forever}
	}
	read := d.marks(asked)
	all := []*v1.Pod{asked, sleepy, late, failing, refused, deaf}
	for _, pod := range all {
		d.run(pod)
	}
	for _, pod := range []*v1.Pod{asked, sleepy, late, deaf} {
		d.waitReady(pod)
	}
	if s := d.status(late); conditionOf(s, v1.PodReady).LastTransitionTime.Sub(s.ContainerStatuses[0].State.Running.StartedAt.Time) < time.Second {
		t.Errorf("ready before its postStart hook was done: %v", s)
	}
	// A container whose postStart hook fails is ended.
	for _, pod := range []*v1.Pod{failing, refused} {
		d.waitPhase(pod, v1.PodFailed)
		// 9 if its shell had come as far as the trap, or else it was killed.
		if end := d.status(pod).ContainerStatuses[0].State.Terminated; end == nil || (end.ExitCode != 9 && end.ExitCode != 137) {
			t.Errorf("%s: got %v", pod.Name, end)
		}
	}
	if !d.sink.hasEvent("Warning FailedPostStartHook spec.containers{main}: PostStartHook failed") {
		t.Errorf("no event about the postStart hook in %q", d.sink.events)
	}
	began := time.Now()
	d.remove(sleepy, 30)
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("stopped after %v, its hook takes 3 s", took)
	}
	if d.sink.hasEvent("FailedPreStopHook") {
		t.Errorf("a preStop hook has failed: %q", d.sink.events)
	}
	d.remove(asked, 4)
	if got := read(); got != "/cgi-bin/hook?stopping yes" {
		t.Errorf("the server was asked for %q", got)
	}
	d.remove(deaf, 30)
	if !d.sink.hasEvent("Warning FailedPreStopHook spec.containers{main}: PreStopHook failed") {
		t.Errorf("no event about the preStop hook in %q", d.sink.events)
	}
	for _, pod := range []*v1.Pod{late, failing, refused} {
		d.remove(pod, 0)
	}
}

// TestContainerdProbeKinds has startup and liveness probes that fail, by exec, HTTP and TCP. Those over gRPC are
// in TestContainerdEnds, readiness probes there and in TestContainerdProbesHooksAndSidecars.
func TestContainerdProbeKinds(t *testing.T) {
	d := newDevice(t)
	failing := func(name string, handler v1.ProbeHandler) (*v1.Pod, *v1.Probe) {
		return newPod(name, script("main", forever)), &v1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10, FailureThreshold: 2, SuccessThreshold: 1, ProbeHandler: handler}
	}
	exec := v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo not yet; exit 1"}}}
	tcp := v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(9)}}
	http := v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt32(9), Path: "/"}}
	type trial struct{ kind, event string }
	pods := map[*v1.Pod]trial{}
	for name, handler := range map[string]v1.ProbeHandler{"exec": exec, "tcp": tcp, "http": http} {
		startup, p := failing("startup-"+name, handler)
		startup.Spec.Containers[0].StartupProbe = p
		liveness, p := failing("liveness-"+name, handler)
		liveness.Spec.Containers[0].LivenessProbe = p
		words := map[string]string{"exec": "not yet", "tcp": "dial tcp ", "http": `Get "http://`}[name]
		pods[startup] = trial{"startup", "Unhealthy spec.containers{main}: Startup probe failed: " + words}
		pods[liveness] = trial{"liveness", "Unhealthy spec.containers{main}: Liveness probe failed: " + words}
	}
	// As long as it has not started up, nobody asks whether it lives.
	slow, p := failing("slow", v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "-e", "/tmp/alive"}}})
	slow.Spec.Containers[0].LivenessProbe = p
	_, start := failing("", v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "-e", "/tmp/up"}}})
	start.FailureThreshold = 100
	slow.Spec.Containers[0].StartupProbe = start
	slow.Spec.Containers[0].Command = []string{"/bin/sh", "-c", "trap 'exit 0' TERM; sleep 5; touch /tmp/alive /tmp/up; " + forever}
	d.run(slow)
	for pod := range pods {
		d.run(pod)
	}
	for pod, want := range pods {
		d.wait("the restart of "+pod.Name, func() bool {
			s := d.status(pod)
			return len(s.ContainerStatuses) == 1 && s.ContainerStatuses[0].RestartCount >= 1
		})
		killing := "Container main failed " + want.kind + " probe, will be restarted"
		if !d.sink.hasEvent(want.event) || !d.sink.hasEvent(killing) {
			t.Errorf("%s: no event %q or %q in %q", pod.Name, want.event, killing, d.sink.events)
		}
	}
	d.waitReady(slow)
	if cs := d.status(slow).ContainerStatuses[0]; cs.RestartCount != 0 || cs.Started == nil || !*cs.Started {
		t.Errorf("the slow one: %v", cs)
	}
	for pod := range pods {
		d.remove(pod, 0)
	}
	d.remove(slow, 0)
}

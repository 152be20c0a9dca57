package pods

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/runtime/cri"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

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
		if len(s.ContainerStatuses) == 0 || s.ContainerStatuses[0].State.Waiting == nil || s.ContainerStatuses[0].LastTerminationState.Terminated == nil {
			return false
		}
		cs := s.ContainerStatuses[0]
		return cs.State.Waiting.Reason == "CrashLoopBackOff" && cs.RestartCount > 0 && cs.LastTerminationState.Terminated.Reason == "StartError"
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

// TestContainerdRestartsAll has a container whose exit makes the whole pod begin anew.
func TestContainerdRestartsAll(t *testing.T) {
	d := newDevice(t)
	shared := []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	init := script("init", "echo x >> /shared/inits")
	trigger := script("trigger", `[ "$(wc -l < /shared/inits)" -ge 2 ] || exit 42; `+forever)
	trigger.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
	trigger.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	other := script("other", "echo x >> /shared/others; "+forever)
	for _, c := range []*v1.Container{&init, &trigger, &other} {
		c.VolumeMounts = shared
	}
	pod := newPod("all", trigger, other)
	pod.Spec.InitContainers = []v1.Container{init}
	pod.Spec.RestartPolicy = v1.RestartPolicyNever
	pod.Spec.Volumes = []v1.Volume{{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	d.run(pod)
	d.wait("all containers to be restarted", func() bool {
		s := d.status(pod)
		return conditionIs(s, v1.PodReady, v1.ConditionTrue) && s.ContainerStatuses[0].RestartCount == 1 && s.ContainerStatuses[1].RestartCount == 1
	})
	s := d.status(pod)
	for _, cs := range s.ContainerStatuses {
		if cs.RestartCount != 1 || cs.LastTerminationState.Terminated == nil {
			t.Errorf("%s: got restarts %d, last state %v", cs.Name, cs.RestartCount, cs.LastTerminationState)
		}
	}
	if end := s.ContainerStatuses[1].LastTerminationState.Terminated; end == nil || end.ExitCode != 42 {
		t.Errorf("the trigger's last state is %v", end)
	}
	if s.Phase != v1.PodRunning || s.InitContainerStatuses[0].RestartCount != 1 || conditionOf(s, v1.AllContainersRestarting) != nil {
		t.Errorf("got phase %s, init container %v, conditions %v", s.Phase, s.InitContainerStatuses[0], s.Conditions)
	}
	if got := d.mustExec(pod, "other", "/bin/sh", "-c", "cat /shared/inits /shared/others | wc -l"); got != "4" {
		t.Errorf("init container and the other one ran %s times together, want 4", got)
	}
	d.remove(pod, 0)
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

// Whatever is missing in the runtime when the agent comes back, a container, the whole sandbox or all of the pod,
// is made again, and the restart counts go on.
func TestContainerdRemainsOfAPod(t *testing.T) {
	d := newDevice(t)
	pod := newPod("whole", script("main", forever), script("side", forever))
	d.run(pod)
	d.waitReady(pod)
	// As there is no agent while things are taken away, neither is its client.
	client, err := cri.New(t.Context(), d.server.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(t.Context())
	container := strings.TrimPrefix(d.status(pod).ContainerStatuses[0].ContainerID, "containerd://")
	stopSandbox := func() (string, error) {
		list, err := client.ListPodSandbox(t.Context(), &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{types.KubernetesPodUIDLabel: string(pod.UID)},
			State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}})
		if err != nil || len(list) != 1 {
			return "", fmt.Errorf("sandboxes %v, %w", list, err)
		}
		return list[0].Id, client.StopPodSandbox(t.Context(), list[0].Id)
	}
	for _, step := range []struct {
		what       string
		take       func() error
		main, side int32
	}{
		{"a container has ended", func() error { return client.StopContainer(t.Context(), container, 0) }, 1, 0},
		{"the sandbox is dead", func() error { _, err := stopSandbox(); return err }, 2, 1},
		{"the sandbox is gone with all that was in it", func() error {
			id, err := stopSandbox()
			if err != nil {
				return err
			}
			return client.RemovePodSandbox(t.Context(), id)
		}, 3, 2},
	} {
		d.stop()
		if err := step.take(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		d.start()
		d.wait(step.what, func() bool {
			s := d.status(pod)
			return conditionIs(s, v1.PodReady, v1.ConditionTrue) && len(s.ContainerStatuses) == 2 &&
				s.ContainerStatuses[0].RestartCount == step.main && s.ContainerStatuses[1].RestartCount == step.side
		})
	}
	d.remove(pod, 0)
}

package pods

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// marks gives all containers of a pod a directory of the host at /marks, and returns what is in its file.
func (d *device) marks(pod *v1.Pod) (read func() string) {
	d.t.Helper()
	dir := filepath.Join(d.dir, "marks-"+pod.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: "marks", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: dir}}})
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].VolumeMounts = append(containers[i].VolumeMounts, v1.VolumeMount{Name: "marks", MountPath: "/marks"})
		}
	}
	return func() string {
		data, _ := os.ReadFile(filepath.Join(dir, "file"))
		return strings.Join(strings.Fields(string(data)), " ")
	}
}

// touch makes or removes a file beside the marks of a pod.
func (d *device) touch(pod *v1.Pod, name string, there bool) {
	d.t.Helper()
	path := filepath.Join(d.dir, "marks-"+pod.Name, name)
	if !there {
		if err := os.Remove(path); err != nil {
			d.t.Fatal(err)
		}
	} else if err := os.WriteFile(path, nil, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// TestContainerdInitFailures has init containers that fail: they are started again, or end the pod.
func TestContainerdInitFailures(t *testing.T) {
	d := newDevice(t)
	const second = "[ -e /marks/failed ] || { touch /marks/failed; exit 5; }"
	mark := func(name string) string { return "echo " + name + " >> /marks/file; " }
	pods, read := map[v1.RestartPolicy]*v1.Pod{}, map[v1.RestartPolicy]func() string{}
	for _, policy := range []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever} {
		pod := newPod("init-"+strings.ToLower(string(policy)), script("main", mark("main")+forever))
		pod.Spec.InitContainers = []v1.Container{script("one", mark("one")), script("two", mark("two")+second), script("three", mark("three"))}
		pod.Spec.RestartPolicy = policy
		pods[policy], read[policy] = pod, d.marks(pod)
		d.run(pod)
	}
	for _, policy := range []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure} {
		pod := pods[policy]
		d.waitReady(pod)
		s := d.status(pod).InitContainerStatuses
		if end := s[1].LastTerminationState.Terminated; s[0].RestartCount != 0 || s[1].RestartCount != 1 || end == nil || end.ExitCode != 5 {
			t.Errorf("%s: got init containers %v", policy, s)
		}
		d.wait("all marks", func() bool { return read[policy]() == "one two two three main" })
	}
	never := pods[v1.RestartPolicyNever]
	d.waitPhase(never, v1.PodFailed)
	s := d.status(never)
	if end := s.InitContainerStatuses[1].State.Terminated; end == nil || end.ExitCode != 5 || s.InitContainerStatuses[1].RestartCount != 0 || !conditionIs(s, v1.PodInitialized, v1.ConditionFalse) {
		t.Errorf("got %v", s)
	}
	if got := read[v1.RestartPolicyNever](); got != "one two" {
		t.Errorf("after the failure more has run: %q", got)
	}
	for _, pod := range pods {
		d.remove(pod, 0)
	}
}

// TestContainerdSidecarOrder looks at when sidecars start and end: before the others, each after it has
// started up, and after them in reverse order.
func TestContainerdSidecarOrder(t *testing.T) {
	d := newDevice(t)
	marking := func(name string) v1.Container {
		return box(name, "/bin/sh", "-c", "trap 'echo -"+name+" >> /marks/file; exit 0' TERM; sleep 1; echo +"+name+" >> /marks/file; touch /up; "+forever)
	}
	sidecar := func(name string) v1.Container {
		c := marking(name)
		c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
		c.StartupProbe = &v1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10, FailureThreshold: 60, SuccessThreshold: 1,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "-e", "/up"}}}}
		return c
	}
	pod := newPod("ordered", marking("main"))
	pod.Spec.InitContainers = []v1.Container{sidecar("a"), script("init", "echo init >> /marks/file"), sidecar("b")}
	read := d.marks(pod)
	d.run(pod)
	d.wait("all to be up", func() bool { return read() == "+a init +b +main" })
	d.waitReady(pod)
	d.remove(pod, 30)
	if got := read(); got != "+a init +b +main -main -b -a" {
		t.Errorf("got %q", got)
	}

	// Sidecars do not keep a pod from ending.
	job := newPod("job", script("main", "echo done >> /marks/file"))
	job.Spec.RestartPolicy = v1.RestartPolicyNever
	job.Spec.InitContainers = []v1.Container{sidecar("a")}
	read = d.marks(job)
	d.run(job)
	d.waitPhase(job, v1.PodSucceeded)
	d.wait("the sidecar's end", func() bool { return read() == "+a done -a" })
	d.remove(job, 0)
}

// TestContainerdRestartRules has containers whose own policy and rules say otherwise than their pod's.
func TestContainerdRestartRules(t *testing.T) {
	d := newDevice(t)
	// It ends with 42, is started again for that, and ends with 1, which no rule names.
	ruled := script("ruled", "echo ruled >> /marks/file; [ -e /marks/ruled ] && exit 1; touch /marks/ruled; exit 42")
	ruled.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
	ruled.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	// This one is started again whenever it fails, though its pod's are not.
	stubborn := script("stubborn", "echo stubborn >> /marks/file; [ -e /marks/stubborn ] && exit 0; touch /marks/stubborn; exit 3")
	stubborn.RestartPolicy = ptr.To(v1.ContainerRestartPolicyOnFailure)
	pod := newPod("rules", ruled, stubborn)
	pod.Spec.RestartPolicy = v1.RestartPolicyNever
	read := d.marks(pod)
	d.run(pod)
	d.waitPhase(pod, v1.PodFailed)
	if got := read(); strings.Count(got, "ruled") != 2 || strings.Count(got, "stubborn") != 2 {
		t.Errorf("got %q", got)
	}
	for i, want := range []int32{1, 0} {
		cs := d.status(pod).ContainerStatuses[i]
		if end := cs.State.Terminated; end == nil || end.ExitCode != want || cs.RestartCount != 1 {
			t.Errorf("got %v", cs)
		}
	}
	d.remove(pod, 0)
}

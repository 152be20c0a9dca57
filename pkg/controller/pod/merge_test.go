package pod

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func at(seconds int64) metav1.Time { return metav1.NewTime(time.Unix(seconds, 0).UTC()) }

func cond(t corev1.PodConditionType, s corev1.ConditionStatus, seconds int64) corev1.PodCondition {
	return corev1.PodCondition{Type: t, Status: s, LastTransitionTime: at(seconds)}
}

func TestMerge(t *testing.T) {
	start := at(5)
	for name, tt := range map[string]struct {
		old, reported, want corev1.PodStatus
	}{
		"conditions of others stay, the device's are replaced": {
			old: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
				cond(corev1.PodScheduled, corev1.ConditionTrue, 1), cond("example.com/gate", corev1.ConditionTrue, 2), cond(corev1.PodReady, corev1.ConditionFalse, 3),
			}},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				cond(corev1.PodScheduled, corev1.ConditionFalse, 9), cond("example.com/gate", corev1.ConditionFalse, 9), cond(corev1.PodReady, corev1.ConditionTrue, 9),
			}},
			want: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				cond(corev1.PodScheduled, corev1.ConditionTrue, 1), cond("example.com/gate", corev1.ConditionTrue, 2), cond(corev1.PodReady, corev1.ConditionTrue, 9),
			}},
		},
		"times of transition do not go back while the status stays": {
			old:      corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 9), cond(corev1.ContainersReady, corev1.ConditionTrue, 9)}},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 3), {Type: corev1.ContainersReady, Status: corev1.ConditionTrue}, {Type: corev1.PodInitialized, Status: corev1.ConditionTrue}}},
			want:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 9), cond(corev1.ContainersReady, corev1.ConditionTrue, 9), cond(corev1.PodInitialized, corev1.ConditionTrue, 100)}},
		},
		"what went and came back while the device was away is told with its time": {
			old:      corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 3)}},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 9)}},
			want:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 9)}},
		},
		"what is not the device's stays": {
			old: corev1.PodStatus{
				Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable, StartTime: &start, NominatedNodeName: "n", ObservedGeneration: 4,
				ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{Name: "c"}},
			},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, QOSClass: corev1.PodQOSGuaranteed, StartTime: new(at(8)), NominatedNodeName: "m", ObservedGeneration: 2},
			want: corev1.PodStatus{
				Phase: corev1.PodRunning, QOSClass: corev1.PodQOSBurstable, StartTime: &start, NominatedNodeName: "n", ObservedGeneration: 4,
				ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{Name: "c"}},
			},
		},
		"what has ended stays so": {
			old:      corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"},
			reported: corev1.PodStatus{Phase: corev1.PodRunning},
			want:     corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"},
		},
		"how it has ended stays so": {
			old: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Preempted", Message: "by somebody"},
			reported: corev1.PodStatus{
				Phase: corev1.PodSucceeded, Reason: "Other", Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 9)},
				ContainerStatuses: []corev1.ContainerStatus{{Name: "a"}},
			},
			want: corev1.PodStatus{
				Phase: corev1.PodFailed, Reason: "Preempted", Message: "by somebody",
				Conditions: []corev1.PodCondition{
					{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "PodFailed", LastTransitionTime: at(100)},
				},
				ContainerStatuses: []corev1.ContainerStatus{{Name: "a"}},
			},
		},
		"the device may tell why later": {
			old:      corev1.PodStatus{Phase: corev1.PodFailed},
			reported: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "little memory is left"},
			want:     corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "little memory is left"},
		},
		"what has ended is not ready": {
			old:      corev1.PodStatus{Phase: corev1.PodRunning},
			reported: corev1.PodStatus{Phase: corev1.PodSucceeded, Conditions: []corev1.PodCondition{cond(corev1.PodReady, corev1.ConditionTrue, 9)}},
			want: corev1.PodStatus{Phase: corev1.PodSucceeded, Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "PodCompleted", LastTransitionTime: at(100)},
			}},
		},
		"rejected by the device": {
			old:      corev1.PodStatus{Phase: corev1.PodPending},
			reported: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "PolicyForbidden", Message: "privileged pods are forbidden here"},
			want:     corev1.PodStatus{Phase: corev1.PodFailed, Reason: "PolicyForbidden", Message: "privileged pods are forbidden here"},
		},
		"disruption is told at the end only": {
			old:      corev1.PodStatus{Phase: corev1.PodRunning},
			reported: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.DisruptionTarget, corev1.ConditionTrue, 9)}},
			want:     corev1.PodStatus{Phase: corev1.PodRunning},
		},
		"disruption told at the end": {
			old:      corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{cond(corev1.DisruptionTarget, corev1.ConditionFalse, 2)}},
			reported: corev1.PodStatus{Phase: corev1.PodFailed, Conditions: []corev1.PodCondition{cond(corev1.DisruptionTarget, corev1.ConditionTrue, 9)}},
			want:     corev1.PodStatus{Phase: corev1.PodFailed, Conditions: []corev1.PodCondition{cond(corev1.DisruptionTarget, corev1.ConditionTrue, 9)}},
		},
		"containers that the pod does not have, and one a second time, are left out": {
			old: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "foreign"}}},
			reported: corev1.PodStatus{
				Phase:                      corev1.PodRunning,
				InitContainerStatuses:      []corev1.ContainerStatus{{Name: "b"}, {Name: "z"}},
				ContainerStatuses:          []corev1.ContainerStatus{{Name: "foreign"}, {Name: "a", RestartCount: 1}, {Name: "z"}, {Name: "a", RestartCount: 2}},
				EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: "a"}, {Name: "debug"}, {Name: "debug"}},
			},
			want: corev1.PodStatus{
				Phase:                      corev1.PodRunning,
				InitContainerStatuses:      []corev1.ContainerStatus{{Name: "z"}},
				ContainerStatuses:          []corev1.ContainerStatus{{Name: "a", RestartCount: 1}},
				EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: "debug"}},
			},
		},
		"no phase is no change of phase": {
			old:  corev1.PodStatus{Phase: corev1.PodRunning},
			want: corev1.PodStatus{Phase: corev1.PodRunning},
		},
		"times in seconds, statuses in order": {
			reported: corev1.PodStatus{Phase: corev1.PodRunning,
				ContainerStatuses: []corev1.ContainerStatus{
					{Name: "b"}, {Name: "a", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(5, 7))}}},
				},
				InitContainerStatuses: []corev1.ContainerStatus{{Name: "a"}, {Name: "z"}},
			},
			want: corev1.PodStatus{Phase: corev1.PodRunning,
				ContainerStatuses:     []corev1.ContainerStatus{{Name: "a", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(5)}}}, {Name: "b"}},
				InitContainerStatuses: []corev1.ContainerStatus{{Name: "z"}, {Name: "a"}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{{Name: "z"}, {Name: "a"}}, Containers: []corev1.Container{{Name: "b"}, {Name: "a"}},
				EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}},
			}, Status: tt.old}
			got := merge(p, tt.reported, at(100))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			p.Status = got
			if diff := cmp.Diff(got, merge(p, tt.reported, at(200))); diff != "" {
				t.Errorf("merging the same again changes something: %s", diff)
			}
		})
	}
}

// TestMergeAfterLostSandbox has a pod begin anew with its init containers: kube-apiserver takes no status by which
// a container that its restart policy does not start again has left its end behind.
func TestMergeAfterLostSandbox(t *testing.T) {
	ended := func(name string, exitCode int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, ContainerID: "runtime://1", Ready: exitCode == 0,
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: exitCode}}}
	}
	again := func(name string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, ContainerID: "runtime://2", RestartCount: 1,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(50)}}}
	}
	restartAll := []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
	always := new(corev1.ContainerRestartPolicyAlways)
	for name, tt := range map[string]struct {
		policy    corev1.RestartPolicy
		container corev1.Container
		exitCode  int32
		reported  corev1.ContainerStatus
		kept      bool
	}{
		"always":                             {policy: corev1.RestartPolicyAlways, reported: again("c")},
		"on failure, ended well":             {policy: corev1.RestartPolicyOnFailure, reported: again("c"), kept: true},
		"on failure, failed":                 {policy: corev1.RestartPolicyOnFailure, exitCode: 1, reported: again("c")},
		"never":                              {policy: corev1.RestartPolicyNever, exitCode: 1, reported: again("c"), kept: true},
		"a policy of its own":                {policy: corev1.RestartPolicyNever, container: corev1.Container{RestartPolicy: always}, reported: again("c")},
		"a container may restart all others": {policy: corev1.RestartPolicyNever, container: corev1.Container{RestartPolicyRules: restartAll}, reported: again("c")},
		"it has ended again":                 {policy: corev1.RestartPolicyOnFailure, reported: ended("c", 3)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, init := range []bool{true, false} {
				c := tt.container
				c.Name = "c"
				p := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tt.policy}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}}}
				reported := corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{cond(corev1.PodInitialized, corev1.ConditionFalse, 50)}}
				before, now := []corev1.ContainerStatus{ended("c", tt.exitCode)}, []corev1.ContainerStatus{tt.reported}
				if init {
					p.Spec.InitContainers, p.Status.InitContainerStatuses, reported.InitContainerStatuses = []corev1.Container{c}, before, now
				} else {
					p.Spec.Containers, p.Status.ContainerStatuses, reported.ContainerStatuses = []corev1.Container{c}, before, now
				}
				want := *reported.DeepCopy()
				if tt.kept {
					want.InitContainerStatuses, want.ContainerStatuses = p.Status.InitContainerStatuses, p.Status.ContainerStatuses
				}
				if diff := cmp.Diff(want, merge(p, reported, at(100))); diff != "" {
					t.Errorf("init container: %t: %s", init, diff)
				}
			}
		})
	}
}

// No restart policy starts an ephemeral container again. A device that has lost all records of one does.
func TestMergeEphemeralContainer(t *testing.T) {
	const end, again = "runtime://1", "runtime://2"
	status := func(id string, ended bool) []corev1.ContainerStatus {
		s := corev1.ContainerStatus{Name: "debug", ContainerID: id, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(50)}}}
		if ended {
			s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}
		}
		return []corev1.ContainerStatus{s}
	}
	restartAll := []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
	for name, tt := range map[string]struct {
		old, reported []corev1.ContainerStatus
		want          string
	}{
		"it runs":           {status(again, false), status(again, false), again},
		"it ends":           {status(again, false), status(again, true), again},
		"it runs again":     {status(end, true), status(again, false), end},
		"it has ended anew": {status(end, true), status(again, true), again},
	} {
		for what, c := range map[string]corev1.Container{"": {Name: "main"}, ", all containers may be restarted": {Name: "main", RestartPolicyRules: restartAll}} {
			t.Run(name+what, func(t *testing.T) {
				p := &corev1.Pod{Spec: corev1.PodSpec{
					RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{c},
					EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}},
				}, Status: corev1.PodStatus{Phase: corev1.PodRunning, EphemeralContainerStatuses: tt.old}}
				got := merge(p, corev1.PodStatus{Phase: corev1.PodRunning, EphemeralContainerStatuses: tt.reported}, at(100)).EphemeralContainerStatuses
				if len(got) != 1 || got[0].ContainerID != tt.want {
					t.Errorf("got %v, want that of %s", got, tt.want)
				}
			})
		}
	}
}

// Services that select a pod lead to its addresses, and kube-apiserver connects to them.
func TestMergeCleansIPs(t *testing.T) {
	for name, tt := range map[string]struct{ reported, want []string }{
		"none":                  {},
		"one":                   {[]string{"192.0.2.1"}, []string{"192.0.2.1"}},
		"dual stack":            {[]string{"2001:db8::1", "192.0.2.1"}, []string{"2001:db8::1", "192.0.2.1"}},
		"only the first of two": {[]string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"}, []string{"192.0.2.1", "2001:db8::1"}},
		"not as the API writes": {[]string{"2001:DB8:0::1"}, []string{"2001:db8::1"}},
		"no addresses":          {[]string{"", "name", "192.0.2.1:80", "192.0.2.0/24", "192.0.2.01", "2001:db8::1%eth0"}, nil},
		"unspecified":           {[]string{"0.0.0.0", "::"}, nil},
		"loopback":              {[]string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"}, nil},
		"link-local":            {[]string{"169.254.169.254", "fe80::1"}, nil},
		"multicast":             {[]string{"224.0.0.1", "239.1.1.1", "ff02::1", "ff0e::1", "255.255.255.255"}, nil},
		"the rest stays":        {[]string{"127.0.0.1", "192.0.2.1"}, []string{"192.0.2.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var reported, want corev1.PodStatus
			for i, ip := range tt.reported {
				if i == 0 {
					reported.PodIP, reported.HostIP = ip, ip
				}
				reported.PodIPs, reported.HostIPs = append(reported.PodIPs, corev1.PodIP{IP: ip}), append(reported.HostIPs, corev1.HostIP{IP: ip})
			}
			for i, ip := range tt.want {
				if i == 0 {
					want.PodIP, want.HostIP = ip, ip
				}
				want.PodIPs, want.HostIPs = append(want.PodIPs, corev1.PodIP{IP: ip}), append(want.HostIPs, corev1.HostIP{IP: ip})
			}
			if diff := cmp.Diff(want, merge(&corev1.Pod{}, reported, at(100))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The conditions of a report are compared with each other: one holds as many as fit into it.
func TestFirstOfEachType(t *testing.T) {
	var reported []corev1.PodCondition
	for i := range 30_000 {
		reported = append(reported, corev1.PodCondition{Type: corev1.PodConditionType(strconv.Itoa(i))})
	}
	reported = append(reported, cond(corev1.PodReady, corev1.ConditionTrue, 9), cond(corev1.DisruptionTarget, corev1.ConditionTrue, 9), cond(corev1.PodReady, corev1.ConditionFalse, 9))
	if diff := cmp.Diff(reported[30_000:30_002], firstOfEachType(reported)); diff != "" {
		t.Error(diff)
	}
}

func TestScheduled(t *testing.T) {
	reported := corev1.PodStatus{Phase: corev1.PodRunning, ObservedGeneration: 3}
	for name, tt := range map[string]struct {
		old  []corev1.PodCondition
		want metav1.Time
	}{
		"by a scheduler":    {[]corev1.PodCondition{cond(corev1.PodScheduled, corev1.ConditionTrue, 2)}, at(2)},
		"failed at first":   {[]corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable"}}, at(100)},
		"without scheduler": {nil, at(100)},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n"}, Status: corev1.PodStatus{Conditions: tt.old}}
			want := []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: 3, LastTransitionTime: tt.want}}
			p.Status = merge(p, reported, at(100))
			if diff := cmp.Diff(want, p.Status.Conditions); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(want, merge(p, reported, at(200)).Conditions); diff != "" {
				t.Errorf("merging the same again changes something: %s", diff)
			}
		})
	}
}

func TestWaitingStatus(t *testing.T) {
	list := func(name corev1.ResourceName, quantity string) corev1.ResourceList {
		return corev1.ResourceList{name: resource.MustParse(quantity)}
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Generation: 7}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "init"}},
		Containers: []corev1.Container{
			{Name: "a", Image: "x", Resources: corev1.ResourceRequirements{Requests: list("cpu", "100m"), Limits: list("cpu", "1")}},
			{Name: "b", Resources: corev1.ResourceRequirements{Requests: list("cpu", "50m")}, VolumeMounts: []corev1.VolumeMount{
				{Name: "v", MountPath: "/rw"}, {Name: "v", MountPath: "/ro", ReadOnly: true},
				{Name: "v", MountPath: "/rro", ReadOnly: true, RecursiveReadOnly: new(corev1.RecursiveReadOnlyEnabled)},
				{Name: "v", MountPath: "/maybe", ReadOnly: true, RecursiveReadOnly: new(corev1.RecursiveReadOnlyIfPossible)},
			}},
		},
	}}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger", Image: "y"}}}
	status := waitingStatus(p, map[string]string{"b": "no such key", "debugger": "no such ConfigMap"}, at(1))
	debugger := []corev1.ContainerStatus{{
		Name: "debugger", Image: "y",
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: "no such ConfigMap"}},
	}}
	if diff := cmp.Diff(debugger, status.EphemeralContainerStatuses); diff != "" {
		t.Errorf("ephemeral containers: %s", diff)
	}
	if status.Phase != corev1.PodPending || !status.StartTime.Equal(new(at(1))) {
		t.Errorf("status: %+v", status)
	}
	for i, want := range []string{"PodInitializing", "CreateContainerConfigError"} {
		if got := status.ContainerStatuses[i].State.Waiting.Reason; got != want {
			t.Errorf("container %d waits because of %s, want %s", i, got, want)
		}
	}
	if got := findCondition(status.Conditions, corev1.PodReady).Message; got != "containers with unready status: [a b]" {
		t.Errorf("message: %s", got)
	}
	for _, c := range status.Conditions {
		if c.ObservedGeneration != 7 {
			t.Errorf("condition %s is of generation %d", c.Type, c.ObservedGeneration)
		}
	}
	if got := findCondition(status.Conditions, corev1.PodInitialized).Message; got != "containers with incomplete status: [init]" {
		t.Errorf("message: %s", got)
	}
	if got := findCondition(status.Conditions, corev1.PodReadyToStartContainers); got.Reason != "PodSandboxNotReady" || got.Message != "No Pod Sandbox found" {
		t.Errorf("got %v, want what is missing", got)
	}
	if diff := cmp.Diff([]corev1.VolumeMountStatus{
		{Name: "v", MountPath: "/rw"}, {Name: "v", MountPath: "/ro", ReadOnly: true, RecursiveReadOnly: new(corev1.RecursiveReadOnlyDisabled)},
		{Name: "v", MountPath: "/rro", ReadOnly: true, RecursiveReadOnly: new(corev1.RecursiveReadOnlyEnabled)},
		{Name: "v", MountPath: "/maybe", ReadOnly: true},
	}, status.ContainerStatuses[1].VolumeMounts); diff != "" {
		t.Errorf("mounts: %s", diff)
	}
	if diff := cmp.Diff(&corev1.ResourceRequirements{Requests: list("cpu", "150m"), Limits: list("cpu", "1")}, status.Resources); diff != "" {
		t.Errorf("resources: %s", diff)
	}
	if diff := cmp.Diff(list("cpu", "150m"), status.AllocatedResources); diff != "" {
		t.Errorf("allocated resources: %s", diff)
	}
}

package target

import (
	"context"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway/target/fakedevice"
	"arhat.dev/aranya/pkg/edge/stream"
	"arhat.dev/aranya/pkg/streaming"
)

// absentPod returns a pod of the API with the containers "setup" and "main", which its device does not have.
func absentPod(status corev1.PodStatus) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: fakedevice.AbsentPod},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "setup"}},
			Containers:     []corev1.Container{{Name: "main"}},
		},
		Status: status,
	}
}

// isStatus checks code and text of an API status.
func isStatus(t *testing.T, err error, code int32, message string) {
	t.Helper()
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Code != code || err.Error() != message {
		t.Errorf("got %v (%+v), want %d: %s", err, status, code, message)
	}
}

func TestLogOfAbsentPod(t *testing.T) {
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "a message"}}
	}
	ran := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	const lost = `the log of container "main" in pod "web" is not on EdgeDevice edge/device-1`
	for name, test := range map[string]struct {
		container string
		status    corev1.PodStatus
		previous  bool
		noInit    bool
		want      string
	}{
		"waits": {
			container: "main", status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "other"}, {Name: "main", State: waiting("CreateContainerConfigError")}}},
			want: `container "main" in pod "web" is waiting to start: CreateContainerConfigError`,
		},
		"init container waits": {
			container: "setup", status: corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: "setup", State: waiting("CreateContainerConfigError")}}},
			want: `container "setup" in pod "web" is waiting to start: CreateContainerConfigError`,
		},
		"ephemeral container waits": {
			container: "debug", status: corev1.PodStatus{EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: "debug", State: waiting("ErrImagePull")}}},
			want: `container "debug" in pod "web" is waiting to start: image can't be pulled`,
		},
		"no status yet":       {container: "main", noInit: true, want: `container "main" in pod "web" is waiting to start: ContainerCreating`},
		"no status, but init": {container: "main", want: `container "main" in pod "web" is waiting to start: PodInitializing`},
		"previous": {
			container: "main", previous: true, status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: waiting("CreateContainerConfigError")}}},
			want: `previous terminated container "main" in pod "web" not found`,
		},
		"runs, by its status": {
			container: "main", status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}},
			want: lost,
		},
		"has run": {
			container: "main", status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: waiting("CrashLoopBackOff"), LastTerminationState: ran}}},
			want: lost,
		},
		"failed without a start": {
			container: "main", status: corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: waiting("ContainerCreating")}}},
			want: lost,
		},
		"succeeded": {
			container: "main", status: corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: ran}}},
			want: lost,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t, fakedevice.Host(nil))
			pod := absentPod(test.status)
			if test.noInit {
				pod.Spec.InitContainers = nil
			}
			_, err := Log(t.Context(), s, &Container{Pod: pod, Name: test.container}, &edgeapi.Log{Previous: test.previous})
			isStatus(t, err, http.StatusBadRequest, test.want)
		})
	}
}

// Who attaches to a container gets the terminal that its process has, or none, whatever the client asks for.
func TestAttachTakesTTYOfContainer(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers:      []corev1.Container{{Name: "setup"}},
		Containers:          []corev1.Container{{Name: "plain"}, {Name: "terminal", TTY: true}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", TTY: true}}},
	}}
	plain := streaming.Options{Stdin: true, Stdout: true, Stderr: true}
	terminal := streaming.Options{Stdin: true, Stdout: true, TTY: true}
	for name, test := range map[string]struct {
		container   *Container
		asked, want streaming.Options
	}{
		"a terminal of one with none":    {&Container{pod, "plain"}, terminal, streaming.Options{Stdin: true, Stdout: true}},
		"no terminal of one with none":   {&Container{pod, "setup"}, plain, plain},
		"no terminal of one with one":    {&Container{pod, "terminal"}, plain, terminal},
		"no terminal of a debugging one": {&Container{pod, "debug"}, plain, terminal},
		"a terminal of the host":         {nil, terminal, terminal},
		"no terminal of the host":        {nil, plain, plain},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan streaming.Options, 1)
			s := newSession(t, func(_ context.Context, req *edgeapi.OpenStream, s *stream.Stream) {
				a := req.GetAttach()
				got <- streaming.Options{Stdin: a.GetStdin(), Stdout: a.GetStdout(), Stderr: a.GetStderr(), TTY: a.GetTty()}
				_ = s.Finish(&edgeapi.Result{}) // an error means that the server is gone
			})
			command, err := Attach(t.Context(), s, test.container, test.asked)
			if err != nil {
				t.Fatal(err)
			}
			command.Close()
			if got := <-got; got != test.want {
				t.Errorf("the device was asked for %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestCommandInAbsentPod(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	container := &Container{Pod: absentPod(corev1.PodStatus{}), Name: "main"}
	_, err := Exec(t.Context(), s, container, []string{"cat"}, streaming.Options{Stdout: true})
	isStatus(t, err, http.StatusNotFound, `container not found ("main")`)
	_, err = Attach(t.Context(), s, container, streaming.Options{Stdout: true})
	isStatus(t, err, http.StatusNotFound, `container not found ("main")`)
}

func TestDialOfAbsentPod(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	_, err := Dialer(s, Address{Pod: absentPod(corev1.PodStatus{})})(t.Context(), 80)
	isStatus(t, err, http.StatusNotFound, `pod not found ("web_default")`)
}

// TestOtherRefusals leaves alone what a device says of pods that it has, and of itself.
func TestOtherRefusals(t *testing.T) {
	s := newSession(t, fakedevice.Host(nil))
	pod := absentPod(corev1.PodStatus{})
	pod.UID = "present"
	_, err := Exec(t.Context(), s, &Container{Pod: pod, Name: "main"}, []string{"forbidden"}, streaming.Options{Stdout: true})
	if !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
	s.Close(nil)
	if _, err := Log(t.Context(), s, &Container{Pod: absentPod(corev1.PodStatus{}), Name: "main"}, &edgeapi.Log{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("offline: got %v", err)
	}
}

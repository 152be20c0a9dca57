package state

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// fakeRuntime has sandboxes and containers by id.
type fakeRuntime struct {
	internalapi.RuntimeService // nil: what a test does not expect panics

	sandboxes  []*runtimeapi.PodSandboxStatus
	containers []*runtimeapi.ContainerStatus
}

func (f *fakeRuntime) ListPodSandbox(context.Context, *runtimeapi.PodSandboxFilter) (list []*runtimeapi.PodSandbox, err error) {
	for _, s := range f.sandboxes {
		list = append(list, &runtimeapi.PodSandbox{Id: s.Id})
	}
	return list, nil
}

func (f *fakeRuntime) ListContainers(context.Context, *runtimeapi.ContainerFilter) (list []*runtimeapi.Container, err error) {
	for _, c := range f.containers {
		list = append(list, &runtimeapi.Container{Id: c.Id, State: c.State})
	}
	return list, nil
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	i := slices.IndexFunc(f.sandboxes, func(s *runtimeapi.PodSandboxStatus) bool { return s.Id == id })
	return &runtimeapi.PodSandboxStatusResponse{Status: f.sandboxes[i]}, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	i := slices.IndexFunc(f.containers, func(c *runtimeapi.ContainerStatus) bool { return c.Id == id })
	return &runtimeapi.ContainerStatusResponse{Status: f.containers[i]}, nil
}

// TestNewestFirst has the clock run as it should, and set back between one attempt and the next.
func TestNewestFirst(t *testing.T) {
	sandbox := func(id string, attempt uint32, createdAt int64) *runtimeapi.PodSandboxStatus {
		return &runtimeapi.PodSandboxStatus{Id: id, Metadata: &runtimeapi.PodSandboxMetadata{Attempt: attempt}, CreatedAt: createdAt}
	}
	container := func(id, name string, restarts int, createdAt int64) *runtimeapi.ContainerStatus {
		return &runtimeapi.ContainerStatus{Id: id, CreatedAt: createdAt, Labels: map[string]string{types.KubernetesContainerNameLabel: name},
			Annotations: map[string]string{podutil.AnnotationRestartCount: strconv.Itoa(restarts)}}
	}
	for _, tc := range []struct {
		name       string
		sandboxes  []*runtimeapi.PodSandboxStatus
		containers []*runtimeapi.ContainerStatus
	}{
		{"in order",
			[]*runtimeapi.PodSandboxStatus{sandbox("old", 0, 10), sandbox("new", 1, 20)},
			[]*runtimeapi.ContainerStatus{container("old", "a", 0, 10), container("new", "a", 1, 20)}},
		{"clock set back",
			[]*runtimeapi.PodSandboxStatus{sandbox("old", 9, 20), sandbox("new", 10, 10)},
			[]*runtimeapi.ContainerStatus{container("old", "a", 9, 20), container("new", "a", 10, 10), container("other", "b", 99, 30)}},
		{"without numbers",
			[]*runtimeapi.PodSandboxStatus{{Id: "old", CreatedAt: 10}, {Id: "new", CreatedAt: 20}},
			[]*runtimeapi.ContainerStatus{container("old", "a", 0, 10), container("new", "a", 0, 20)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reader := &Reader{Runtime: &fakeRuntime{sandboxes: tc.sandboxes, containers: tc.containers}}
			pod, err := reader.Read(t.Context(), "uid")
			if err != nil {
				t.Fatal(err)
			}
			if pod.Sandboxes[0].Id != "new" || pod.Find("a").ID != "new" {
				t.Errorf("got sandbox %q and container %q first, want the new ones", pod.Sandboxes[0].Id, pod.Find("a").ID)
			}
		})
	}
}

// TestLongMessage has a runtime say at length why a container could not be started.
func TestLongMessage(t *testing.T) {
	c := &runtimeapi.ContainerStatus{Id: "c", State: runtimeapi.ContainerState_CONTAINER_EXITED, Message: "exec: " + strings.Repeat("\u00e9", 1<<20)}
	pod, err := (&Reader{Runtime: &fakeRuntime{containers: []*runtimeapi.ContainerStatus{c}}}).Read(t.Context(), "uid")
	if err != nil {
		t.Fatal(err)
	}
	if got := pod.Containers[0].Message; len(got) > maxMessage || !strings.HasPrefix(got, "exec: ") || !utf8.ValidString(got) {
		t.Errorf("got %d bytes: %.100q", len(got), got)
	}
}

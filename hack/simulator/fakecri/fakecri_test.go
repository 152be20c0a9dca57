package fakecri

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLifecycle(t *testing.T) {
	ctx := t.Context()
	r := New(Options{PodIP: "10.0.0.2"})
	config := &runtimeapi.PodSandboxConfig{Labels: map[string]string{"pod": "a"}, LogDirectory: "/logs"}
	sandbox, err := r.RunPodSandbox(ctx, config, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.PodSandboxStatus(ctx, sandbox, false)
	if err != nil || s.Status.Network.Ip != "10.0.0.2" || s.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Fatalf("%v, %v", s, err)
	}
	id, err := r.CreateContainer(ctx, sandbox, &runtimeapi.ContainerConfig{Labels: map[string]string{"pod": "a"}, LogPath: "c.log"}, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	state := func() *runtimeapi.ContainerStatus {
		c, err := r.ContainerStatus(ctx, id, false)
		if err != nil {
			t.Fatal(err)
		}
		return c.Status
	}
	if c := state(); c.State != runtimeapi.ContainerState_CONTAINER_RUNNING || c.LogPath != "/logs/c.log" || c.StartedAt == 0 {
		t.Errorf("after the start: %v", c)
	}
	list, err := r.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: map[string]string{"pod": "b"}})
	if err != nil || len(list) != 0 {
		t.Errorf("containers of another pod: %v, %v", list, err)
	}
	if err := r.StopPodSandbox(ctx, sandbox); err != nil {
		t.Fatal(err)
	}
	if c := state(); c.State != runtimeapi.ContainerState_CONTAINER_EXITED || c.FinishedAt == 0 {
		t.Errorf("after the stop: %v", c)
	}
	if err := r.RemovePodSandbox(ctx, sandbox); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ContainerStatus(ctx, id, false); err == nil {
		t.Error("a container outlives its sandbox")
	}
}

func TestFailures(t *testing.T) {
	r := New(Options{FailureRate: 1})
	if _, err := r.RunPodSandbox(t.Context(), &runtimeapi.PodSandboxConfig{}, ""); err == nil {
		t.Error("a start that is to fail does not")
	}
}

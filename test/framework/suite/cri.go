package suite

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
)

// CRI returns a client of a device's container runtime.
func (e *Env) CRI(t testing.TB, device string) internalapi.RuntimeService {
	t.Helper()
	socket := filepath.Join(e.Cluster.Dir, "devices", device, "containerd.sock")
	var client internalapi.RuntimeService
	// A runtime that has just been started listens before it serves.
	Eventually(t, time.Minute, "container runtime serves", func(ctx context.Context) (err error) {
		client, err = cri.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + socket).
			WithConnectionTimeout(10 * time.Second).WithTracerProvider(nil).Build(ctx)
		return err
	})
	t.Cleanup(func() { _ = client.Close(context.Background()) })
	return client
}

// Sandboxes lists the sandboxes of a pod on a device.
func Sandboxes(t testing.TB, client internalapi.RuntimeService, podUID string) []*runtimeapi.PodSandbox {
	t.Helper()
	list, err := client.ListPodSandbox(t.Context(), &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": podUID}})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Containers lists the containers of a pod on a device.
func Containers(t testing.TB, client internalapi.RuntimeService, podUID string) []*runtimeapi.Container {
	t.Helper()
	list, err := client.ListContainers(t.Context(), &runtimeapi.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": podUID}})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

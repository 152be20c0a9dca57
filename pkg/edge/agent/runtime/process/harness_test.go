package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/test/framework/eventually"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// device is a runtime with its directories.
type device struct {
	*Runtime
	t       *testing.T
	options Options
	logs    string
	sandbox string
}

func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{t: t, logs: t.TempDir(), options: Options{
		// Longer than a socket address may be.
		StateDir: filepath.Join(t.TempDir(), strings.Repeat("long", 30), "process"), Version: "1.2.3",
		HostIP: func() string { return "192.0.2.1" },
	}}
	d.open()
	t.Cleanup(func() {
		ctx := context.Background()
		sandboxes, err := d.ListPodSandbox(ctx, nil)
		if err != nil {
			t.Error(err)
		}
		for _, s := range sandboxes {
			if err := d.RemovePodSandbox(ctx, s.Id); err != nil {
				t.Error(err)
			}
		}
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	id, err := d.RunPodSandbox(t.Context(), d.podConfig("web"), "")
	if err != nil {
		t.Fatal(err)
	}
	d.sandbox = id
	return d
}

func (d *device) open() {
	d.t.Helper()
	r, err := New(d.t.Context(), d.options)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Runtime = r
}

// restart is what the containers see of an agent that is killed and started again.
func (d *device) restart() {
	d.t.Helper()
	if err := d.Close(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	d.open()
}

func (d *device) podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"},
		Hostname: name, LogDirectory: filepath.Join(d.logs, name), Labels: map[string]string{"app": name},
	}
}

func shell(script string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: "host"},
		Command: []string{"/bin/sh", "-c"}, Args: []string{script}, LogPath: "main/0.log", Labels: map[string]string{"c": "main"},
	}
}

func (d *device) create(config *runtimeapi.ContainerConfig) string {
	d.t.Helper()
	id, err := d.CreateContainer(d.t.Context(), d.sandbox, config, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	return id
}

func (d *device) run(config *runtimeapi.ContainerConfig) string {
	d.t.Helper()
	id := d.create(config)
	if err := d.StartContainer(d.t.Context(), id); err != nil {
		d.t.Fatal(err)
	}
	return id
}

func (d *device) status(id string) *runtimeapi.ContainerStatus {
	d.t.Helper()
	response, err := d.ContainerStatus(d.t.Context(), id, true)
	if err != nil {
		d.t.Fatal(err)
	}
	return response.Status
}

func (d *device) exited(id string) *runtimeapi.ContainerStatus {
	d.t.Helper()
	eventually.Holds(d.t, "the container ends", func() bool {
		return d.status(id).State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return d.status(id)
}

func (d *device) log() string {
	data, err := os.ReadFile(filepath.Join(d.logs, "web", "main", "0.log"))
	if err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	return string(data)
}

func (d *device) waitLog(text string) {
	d.t.Helper()
	eventually.Holds(d.t, fmt.Sprintf("the log has %q", text), func() bool { return strings.Contains(d.log(), text) })
}

func (d *device) pid(id string) int {
	d.t.Helper()
	c, err := d.container(id)
	if err != nil {
		d.t.Fatal(err)
	}
	_, started, _ := c.state()
	return started.PID
}

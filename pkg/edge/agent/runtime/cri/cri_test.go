package cri

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/fake"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
	"arhat.dev/aranya/test/framework/eventually"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEndpoints(t *testing.T) {
	for _, endpoint := range []string{"", "/run/x.sock", "tcp://127.0.0.1:1", "unix://", "unix://run/x.sock"} {
		if _, err := New(t.Context(), endpoint); err == nil || !strings.Contains(err.Error(), "unix:///path/to/socket") {
			t.Errorf("%q: got %v", endpoint, err)
		}
	}
}

// socketDir is short enough for a Unix socket.
func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestRuntimeMayComeLater(t *testing.T) {
	socket := filepath.Join(socketDir(t), "s")
	c, err := New(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Version(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "is the runtime installed and running?") {
		t.Errorf("got %v", err)
	}
	start := func() *fake.RemoteRuntime {
		f := fake.NewFakeRemoteRuntime()
		if err := f.Start("unix://" + socket); err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := start()
	if _, err := c.ListImages(t.Context(), nil); err != nil {
		t.Errorf("the runtime is there now: %v", err)
	}
	// It goes and comes back.
	f.Stop()
	f = start()
	defer f.Stop()
	eventually.Succeeds(t, func() error {
		_, err := c.Status(t.Context(), false)
		return err
	})
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := c.Version(t.Context(), ""); err == nil {
		t.Error("a closed runtime answers")
	}
}

func TestOldRuntime(t *testing.T) {
	socket := filepath.Join(socketDir(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer() // knows no CRI v1
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	if _, err := New(t.Context(), "unix://"+socket); err == nil || !strings.Contains(err.Error(), "does not speak CRI v1: containerd 1.6") {
		t.Errorf("got %v", err)
	}
}

func TestSizeQueue(t *testing.T) {
	sizes := make(chan runtime.TerminalSize, 1)
	sizes <- runtime.TerminalSize{Width: 3, Height: 4}
	ctx, cancel := context.WithCancel(t.Context())
	q := sizeQueue{ctx: ctx, sizes: sizes}
	if s := q.Next(); s == nil || s.Width != 3 || s.Height != 4 {
		t.Errorf("got %v", s)
	}
	cancel()
	if s := q.Next(); s != nil {
		t.Errorf("got %v after the end of the session", s)
	}
	close(sizes)
	if s := (sizeQueue{ctx: t.Context(), sizes: sizes}).Next(); s != nil {
		t.Errorf("got %v after the last size", s)
	}
}

func TestCgroupDriver(t *testing.T) {
	for info, want := range map[string]runtimeapi.CgroupDriver{
		"":                       runtimeapi.CgroupDriver_CGROUPFS,
		`{}`:                     runtimeapi.CgroupDriver_CGROUPFS,
		`{"systemdCgroup":true}`: runtimeapi.CgroupDriver_SYSTEMD,
		`{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"options":{"SystemdCgroup":true}}}}}`:                      runtimeapi.CgroupDriver_SYSTEMD,
		`{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"options":null},"x":{"options":{"SystemdCgroup":true}}}}}`: runtimeapi.CgroupDriver_CGROUPFS,
	} {
		if got, err := cgroupDriver(info); err != nil || got != want {
			t.Errorf("%s: got %v, %v", info, got, err)
		}
	}
	if _, err := cgroupDriver("{"); err == nil {
		t.Error("nonsense was accepted")
	}
}
